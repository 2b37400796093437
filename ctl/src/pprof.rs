//! Go's text of `debug=2` as a profile that `go tool pprof` opens.
//!
//! Format: gzip (RFC 1952) around the protobuf of `profile.proto` in github.com/google/pprof, of which a handful of
//! messages is written here. A sample is one stack, its value the goroutines that have it.

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// No line of a traceback is longer.
const LINE_MAX: usize = 1 << 20;

/// Where a goroutine is: function, file, line.
type Place = (u64, u64, u64);

/// A stack, what it waits for and who created it, each by number.
#[derive(PartialEq, Eq, Hash)]
struct Stack {
    locations: Vec<u64>,
    wait: u64,
    created_by: u64,
}

/// Text goes in by [`Write`]; [`Profile::finish`], and the profile is there.
#[derive(Default)]
pub(crate) struct Profile {
    strings: Numbered<String>,
    functions: Numbered<(u64, u64)>,
    locations: Numbered<Place>,
    stacks: Numbered<Stack>,
    /// Goroutines of each of `stacks`.
    counts: Vec<u64>,
    current: Option<Stack>,
    /// A function whose place stands in the next line.
    function: Option<String>,
    /// The beginning of a line.
    line: Vec<u8>,
}

/// Values, numbered from 1 on in the order in which they came.
struct Numbered<T> {
    numbers: HashMap<T, u64>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered { numbers: HashMap::new() }
    }
}

impl<T: std::hash::Hash + Eq> Numbered<T> {
    fn number(&mut self, value: T) -> u64 {
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry(value).or_insert(next)
    }

    /// In the order of their numbers.
    fn sorted(&self) -> Vec<(&T, u64)> {
        let mut all: Vec<(&T, u64)> = self.numbers.iter().map(|(value, number)| (value, *number)).collect();
        all.sort_unstable_by_key(|(_, number)| *number);
        all
    }
}

impl Write for Profile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        for piece in buf.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > LINE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long for a traceback"));
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Profile {
    /// The text has ended.
    pub(crate) fn finish(mut self) -> Profile {
        self.end_line();
        self.end_goroutine();
        self
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.take_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        // Its room is used again.
        self.line = line;
        self.line.clear();
    }

    fn take_line(&mut self, line: &str) {
        if line.is_empty() {
            self.end_goroutine();
        } else if let Some(header) = line.strip_prefix("goroutine ").and_then(|rest| rest.split_once('[')) {
            self.end_goroutine();
            let wait = header.1.split([',', ']']).next().unwrap_or_default();
            let wait = self.strings.number(wait.to_owned());
            self.current = Some(Stack { locations: Vec::new(), wait, created_by: 0 });
        } else if let Some(place) = line.strip_prefix('\t') {
            match self.function.take() {
                Some(function) => self.frame(&function, place),
                // `goroutine running on other thread; stack unavailable`
                None if self.current.as_ref().is_some_and(|stack| stack.locations.is_empty()) => {
                    self.frame(place, "");
                }
                // Where the creating function is.
                None => {}
            }
        } else if let Some(creator) = line.strip_prefix("created by ") {
            self.end_function();
            let creator = creator.split(" in goroutine ").next().unwrap_or_default();
            let number = self.strings.number(creator.to_owned());
            if let Some(stack) = &mut self.current {
                stack.created_by = number;
            }
        } else if !line.starts_with("...") {
            self.end_function();
            // Arguments may be in braces, never in further parentheses.
            let name = line.rfind('(').and_then(|at| line.get(..at)).unwrap_or(line);
            self.function = Some(name.to_owned());
        }
    }

    /// A function without a place.
    fn end_function(&mut self) {
        if let Some(function) = self.function.take() {
            self.frame(&function, "");
        }
    }

    fn frame(&mut self, function: &str, place: &str) {
        let place = place.split(" +0x").next().unwrap_or_default();
        let (file, line) = match place.rsplit_once(':') {
            Some((file, line)) => (file, line.parse().unwrap_or(0)),
            None => (place, 0),
        };
        let name = self.strings.number(function.to_owned());
        let file = if file.is_empty() { 0 } else { self.strings.number(file.to_owned()) };
        let function = self.functions.number((name, file));
        let location = self.locations.number((function, file, line));
        if let Some(stack) = &mut self.current {
            stack.locations.push(location);
        }
    }

    fn end_goroutine(&mut self) {
        self.end_function();
        let Some(stack) = self.current.take() else { return };
        let number = usize::try_from(self.stacks.number(stack)).unwrap_or(usize::MAX);
        match self.counts.get_mut(number - 1) {
            Some(count) => *count += 1,
            None => self.counts.push(1),
        }
    }

    /// Writes the profile; `wall_ms` is when it was taken, if that is known.
    pub(crate) fn write(mut self, to: impl Write, wall_ms: Option<u64>) -> io::Result<()> {
        let [kind, unit, wait, created_by] =
            ["goroutine", "count", "wait", "created_by"].map(|word| self.strings.number(word.to_owned()));
        let mut out = GzEncoder::new(to, Compression::default());
        let mut value_type = Message::default();
        value_type.number(1, kind).number(2, unit);
        Message::default().message(1, &value_type).message(11, &value_type).number(12, 1).send(&mut out)?;
        for ((stack, _), count) in self.stacks.sorted().into_iter().zip(&self.counts) {
            let mut sample = Message::default();
            sample.packed(1, &stack.locations).packed(2, &[*count]);
            for (key, value) in [(wait, stack.wait), (created_by, stack.created_by)] {
                if value != 0 {
                    sample.message(3, Message::default().number(1, key).number(2, value));
                }
            }
            Message::default().message(2, &sample).send(&mut out)?;
        }
        for ((function, _, line), id) in self.locations.sorted() {
            let mut place = Message::default();
            place.number(1, *function).number(2, *line);
            Message::default()
                .message(4, Message::default().number(1, id).message(4, &place))
                .send(&mut out)?;
        }
        for ((name, file), id) in self.functions.sorted() {
            let mut function = Message::default();
            function.number(1, id).number(2, *name).number(3, *name).number(4, *file);
            Message::default().message(5, &function).send(&mut out)?;
        }
        // Number 0 is the empty one.
        Message::default().bytes(6, b"").send(&mut out)?;
        for (string, _) in self.strings.sorted() {
            Message::default().bytes(6, string.as_bytes()).send(&mut out)?;
        }
        if let Some(nanos) = wall_ms.and_then(|ms| ms.checked_mul(1_000_000)) {
            Message::default().number(9, nanos).send(&mut out)?;
        }
        out.finish()?.flush()
    }
}

/// A protobuf message while it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Message {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(&mut self, field: u64, message: &Message) -> &mut Message {
        self.bytes(field, &message.0)
    }

    fn packed(&mut self, field: u64, values: &[u64]) -> &mut Message {
        let mut list = Message::default();
        values.iter().for_each(|value| list.varint(*value));
        self.message(field, &list)
    }

    fn send(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    const TEXT: &str = "\
goroutine 1 [running, locked to thread]:
\tgoroutine running on other thread; stack unavailable

goroutine 18 [chan send, 2 minutes]:
main.(*Gateway).send(0xc000, {0x1, 0x2}, ...)
\t/src/main.go:12 +0x1d
main.work[...]()
\t/src/main.go:20 +0x11
created by main.main in goroutine 1
\t/src/main.go:30 +0x5a

goroutine 19 [chan send]:
main.(*Gateway).send(0xd000, {0x3, 0x4}, ...)
\t/src/main.go:12 +0x1d
main.work[...]()
\t/src/main.go:20 +0x11
created by main.main in goroutine 1
\t/src/main.go:30 +0x5a
";

    fn profile(text: &[u8], step: usize) -> Profile {
        let mut profile = Profile::default();
        text.chunks(step).for_each(|chunk| profile.write_all(chunk).unwrap());
        profile.finish()
    }

    #[test]
    fn equal_stacks_add_up_however_the_text_is_cut() {
        for step in [1, 7, 4096] {
            let profile = profile(TEXT.as_bytes(), step);
            assert_eq!(profile.counts, [1, 2]);
            let strings: Vec<&str> = profile.strings.sorted().iter().map(|(s, _)| s.as_str()).collect();
            assert_eq!(
                strings,
                [
                    "running",
                    "goroutine running on other thread; stack unavailable",
                    "chan send",
                    "main.(*Gateway).send",
                    "/src/main.go",
                    "main.work[...]",
                    "main.main"
                ]
            );
            let places: Vec<Place> = profile.locations.sorted().iter().map(|(place, _)| **place).collect();
            assert_eq!(places, [(1, 0, 0), (2, 5, 12), (3, 5, 20)]);
        }
    }

    #[test]
    fn fields_as_profile_proto_numbers_them() {
        let mut packed = Vec::new();
        profile(b"goroutine 1 [x]:\nf()\n\tg:300\n", 99).write(&mut packed, Some(1)).unwrap();
        let mut plain = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        // strings: x 1, f 2, g 3, goroutine 4, count 5, wait 6, created_by 7
        let wanted: &[&[u8]] = &[
            b"\x0a\x04\x08\x04\x10\x05\x5a\x04\x08\x04\x10\x05\x60\x01",
            b"\x12\x0c\x0a\x01\x01\x12\x01\x01\x1a\x04\x08\x06\x10\x01",
            b"\x22\x09\x08\x01\x22\x05\x08\x01\x10\xac\x02",
            b"\x2a\x08\x08\x01\x10\x02\x18\x02\x20\x03",
            b"\x32\x00\x32\x01x\x32\x01f\x32\x01g\x32\x09goroutine\x32\x05count\x32\x04wait\x32\x0acreated_by",
            b"\x48\xc0\x84\x3d",
        ];
        assert_eq!(plain, wanted.concat());
    }

    #[test]
    fn any_text_gives_a_profile() {
        for at in 0..TEXT.len() {
            profile(&TEXT.as_bytes()[at..], 16).write(Vec::new(), None).unwrap();
            profile(&TEXT.as_bytes()[..at], 16).write(Vec::new(), None).unwrap();
        }
        profile(b"\xff\xfe\n\t\n\t:\nf(\n)\ncreated by \n", 3).write(Vec::new(), None).unwrap();
        assert!(Profile::default().write_all(&[b'x'; LINE_MAX + 1]).is_err());
    }
}
