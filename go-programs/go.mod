module goleakguard.test/programs

go 1.19
