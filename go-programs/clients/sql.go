package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
)

// store is a database that knows one row.
type store struct{}

func (store) Connect(context.Context) (driver.Conn, error) { return store{}, nil }
func (store) Driver() driver.Driver                        { return nil }
func (store) Prepare(string) (driver.Stmt, error)          { return store{}, nil }
func (store) Begin() (driver.Tx, error)                    { return store{}, nil }
func (store) Commit() error                                { return nil }
func (store) Rollback() error                              { return nil }
func (store) Close() error                                 { return nil }
func (store) NumInput() int                                { return 0 }
func (store) Exec([]driver.Value) (driver.Result, error)   { return nil, io.EOF }
func (store) Query([]driver.Value) (driver.Rows, error)    { return store{}, nil }
func (store) Columns() []string                            { return []string{"one"} }

func (store) Next(row []driver.Value) error {
	row[0] = int64(1)
	return nil
}

// database is used to the end.
var database *sql.DB

// leaveDatabase opens one and goes.
func leaveDatabase(int) {
	must(sql.OpenDB(store{}).Ping())
}

// leaveRows does not read the rows to their end.
func leaveRows(int) {
	ctx, cancel := context.WithCancel(context.Background())
	stops = append(stops, cancel)
	rows, err := database.QueryContext(ctx, "")
	must(err)
	if !rows.Next() {
		must(rows.Err())
	}
}

func leaveTransaction(int) {
	ctx, cancel := context.WithCancel(context.Background())
	stops = append(stops, cancel)
	_, err := database.BeginTx(ctx, nil)
	must(err)
}

// exhaust waits for the only connection of a database, which nobody gives back.
func exhaust(int) {
	one := sql.OpenDB(store{})
	databases = append(databases, one)
	one.SetMaxOpenConns(1)
	_, err := one.Query("")
	must(err)
	go func() {
		_, err := one.Query("")
		must(err)
	}()
}

var databases []*sql.DB
