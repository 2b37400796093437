//! HTTP as far as one asks a daemon: GET on a connection that stays, so that the goroutine that answers stays.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::common::{PATIENCE, eventually};

/// A connection that stays open.
pub(crate) struct Http(BufReader<TcpStream>);

impl Http {
    /// Returns once somebody takes connections on `port`.
    pub(crate) fn open(port: u16) -> Http {
        let what = format!("somebody takes connections on port {port}");
        let stream = eventually(&what, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http(BufReader::new(stream))
    }

    /// What is at `path`.
    pub(crate) fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 200 "), "{path}: {status}");
        let (mut length, mut chunked) = (None, false);
        loop {
            let header = self.line().to_ascii_lowercase();
            let Some((key, value)) = header.split_once(": ") else { break };
            match key {
                "content-length" => length = Some(value.parse().unwrap()),
                "transfer-encoding" => chunked = value == "chunked",
                "connection" => assert_ne!(value, "close", "{path}: the connection does not stay"),
                _ => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            while self.chunk(&mut body) {}
        } else {
            self.take(length.unwrap_or_else(|| panic!("{path}: how long?")), &mut body);
        }
        String::from_utf8(body).unwrap()
    }

    /// Reads one more chunk; `false` when it was the last.
    fn chunk(&mut self, body: &mut Vec<u8>) -> bool {
        let length = u64::from_str_radix(&self.line(), 16).unwrap();
        self.take(length, body);
        assert_eq!(self.line(), "");
        length > 0
    }

    fn take(&mut self, length: u64, body: &mut Vec<u8>) {
        let read = self.0.by_ref().take(length).read_to_end(body).unwrap();
        assert_eq!(read as u64, length, "the answer breaks off");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the answer breaks off");
        line.trim_end().to_owned()
    }
}
