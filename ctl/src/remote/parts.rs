//! The parts of a document as they come: in any order, some twice, some never, some of somebody else.
//!
//! They are kept in a log, behind the receipt that announced them, so that a transfer that was interrupted goes on from
//! there. In memory is one number for each part.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use glg_proto::command::{CommandId, Made, PART_HEAD_MAX, PART_MAX, Part, RECEIPT_MAX};
use ring::digest::{Context, SHA256};

/// Parts of one document at most: 16 GiB of the largest.
const PARTS_MAX: u32 = 1 << 20;
/// Longest record of the log.
const RECORD_MAX: usize = PART_MAX + PART_HEAD_MAX + RECEIPT_MAX;

/// Where the log is kept.
pub(crate) trait Store: Read + Write + Seek {
    /// Cuts off what is behind `len`.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Store for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

impl Store for io::Cursor<Vec<u8>> {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.get_mut().truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }
}

/// Why there is no document.
#[derive(Debug)]
pub(crate) enum PartsError {
    /// The log cannot be read or written.
    Io(io::Error),
    /// The announcement cannot be of any document.
    Nonsense,
    /// It is larger than allowed: its bytes.
    TooLarge(u64),
    /// The log does not begin with a receipt.
    NoLog,
}

impl From<io::Error> for PartsError {
    fn from(error: io::Error) -> PartsError {
        PartsError::Io(error)
    }
}

impl fmt::Display for PartsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartsError::Io(error) => write!(f, "{error}"),
            PartsError::Nonsense => f.write_str("the device announces a document that cannot be"),
            PartsError::TooLarge(bytes) => {
                write!(f, "the document has {bytes} bytes, more than --max-size allows")
            }
            PartsError::NoLog => f.write_str("these are no parts of a document"),
        }
    }
}

impl std::error::Error for PartsError {}

/// A document that is on its way.
pub(crate) struct Parts<S> {
    id: CommandId,
    made: Made,
    /// Where in the log the bytes of each part are; 0 for one that has not come.
    places: Vec<u64>,
    missing: u32,
    bytes: u64,
    store: S,
    /// Where the log ends.
    end: u64,
    /// Where the first part stands or would stand.
    first: u64,
}

impl<S: Store> Parts<S> {
    /// Begins a log with the receipt that announced the document.
    pub(crate) fn begin(
        id: CommandId,
        made: Made,
        receipt: &[u8],
        max: u64,
        store: S,
    ) -> Result<Parts<S>, PartsError> {
        let mut parts = Parts::empty(id, made, max, store)?;
        parts.store.cut(0)?;
        parts.append(receipt)?;
        parts.first = parts.end;
        Ok(parts)
    }

    /// Goes on with a log. `announced` reads, and judges, the receipt that it begins with.
    pub(crate) fn resume<E: From<PartsError>>(
        mut store: S,
        max: u64,
        announced: impl FnOnce(&[u8]) -> Result<(CommandId, Made), E>,
    ) -> Result<Parts<S>, E> {
        store.rewind().map_err(PartsError::Io)?;
        let receipt = read_record(&mut store).map_err(PartsError::Io)?.ok_or(PartsError::NoLog)?;
        let (id, made) = announced(&receipt)?;
        let mut parts = Parts::empty(id, made, max, store)?;
        parts.end = record_bytes(&receipt);
        parts.first = parts.end;
        while let Some(record) = read_record(&mut parts.store).map_err(PartsError::Io)? {
            let at = parts.end;
            parts.end += record_bytes(&record);
            parts.note(&record, at);
        }
        // A record of which only the beginning was written.
        let end = parts.end;
        parts.store.cut(end).map_err(PartsError::Io)?;
        Ok(parts)
    }

    fn empty(id: CommandId, made: Made, max: u64, store: S) -> Result<Parts<S>, PartsError> {
        let count = made.parts();
        let part = usize::from(made.part_bytes);
        if made.bytes == 0 || part == 0 || part > PART_MAX || count > PARTS_MAX {
            return Err(PartsError::Nonsense);
        }
        if u64::from(made.bytes) > max {
            return Err(PartsError::TooLarge(made.bytes.into()));
        }
        let places = vec![0; usize::try_from(count).unwrap_or(0)];
        Ok(Parts { id, made, places, missing: count, bytes: 0, store, end: 0, first: 0 })
    }

    /// Takes what came; whether it was new. Parts of other documents, and such as cannot be of this one, are passed over.
    pub(crate) fn take(&mut self, payload: &[u8]) -> Result<bool, PartsError> {
        if !self.note(payload, self.end) {
            return Ok(false);
        }
        self.append(payload)?;
        Ok(true)
    }

    /// Remembers that a part stands in the record at `at`, if it is one that was missing.
    fn note(&mut self, payload: &[u8], at: u64) -> bool {
        let Ok(part) = Part::parse(payload) else { return false };
        let fits = part.command == self.id
            && part.of == self.made.parts()
            && part.bytes.len() as u64 == self.part_len(part.index);
        let place = usize::try_from(part.index).ok().and_then(|index| self.places.get_mut(index));
        match place {
            Some(place) if fits && *place == 0 => {
                let head = payload.len() - part.bytes.len();
                *place = at + 4 + head as u64;
                self.missing -= 1;
                self.bytes += part.bytes.len() as u64;
                true
            }
            _ => false,
        }
    }

    fn part_len(&self, index: u32) -> u64 {
        let (bytes, part) = (u64::from(self.made.bytes), u64::from(self.made.part_bytes));
        bytes.saturating_sub(u64::from(index) * part).min(part)
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len()).map_err(io::Error::other)?;
        self.store.seek(SeekFrom::Start(self.end))?;
        self.store.write_all(&len.to_le_bytes())?;
        self.store.write_all(record)?;
        self.end += record_bytes(record);
        Ok(())
    }

    /// Which command asked for it.
    pub(crate) fn id(&self) -> CommandId {
        self.id
    }

    /// As it was announced.
    pub(crate) fn made(&self) -> &Made {
        &self.made
    }

    /// How many bytes are there.
    pub(crate) fn have(&self) -> u64 {
        self.bytes
    }

    /// The first part that has not come.
    pub(crate) fn first_missing(&self) -> Option<u32> {
        let index = self.places.iter().position(|place| *place == 0)?;
        u32::try_from(index).ok()
    }

    /// Whether the whole is what was announced. If not, all is forgotten: nobody knows which part is wrong.
    pub(crate) fn verify(&mut self) -> Result<bool, PartsError> {
        let mut digest = Context::new(&SHA256);
        let mut reader = self.reader();
        let mut buf = [0; PART_MAX];
        loop {
            match reader.read(&mut buf)? {
                0 => break,
                n => digest.update(buf.get(..n).unwrap_or_default()),
            }
        }
        if digest.finish().as_ref() == self.made.sha256 {
            return Ok(true);
        }
        self.places.fill(0);
        self.missing = self.made.parts();
        self.bytes = 0;
        self.end = self.first;
        self.store.cut(self.end)?;
        Ok(false)
    }

    /// The bytes of all parts that are there, in their order.
    pub(crate) fn reader(&mut self) -> Reader<'_, S> {
        Reader { parts: self, index: 0, done: 0 }
    }
}

/// Reads the document out of the log.
pub(crate) struct Reader<'p, S> {
    parts: &'p mut Parts<S>,
    index: u32,
    /// Bytes of this part that are read already.
    done: u64,
}

impl<S: Store> Read for Reader<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let place = usize::try_from(self.index).ok().and_then(|index| self.parts.places.get(index));
        let Some(&place) = place.filter(|_| !buf.is_empty()) else { return Ok(0) };
        if place == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part is missing"));
        }
        let len = self.parts.part_len(self.index);
        let left = usize::try_from(len - self.done).unwrap_or(usize::MAX).min(buf.len());
        let into = buf.get_mut(..left).unwrap_or_default();
        self.parts.store.seek(SeekFrom::Start(place + self.done))?;
        self.parts.store.read_exact(into)?;
        self.done += left as u64;
        if self.done == len {
            (self.index, self.done) = (self.index + 1, 0);
        }
        Ok(left)
    }
}

fn record_bytes(record: &[u8]) -> u64 {
    4 + record.len() as u64
}

/// The next record; `None` at the end, and where one is cut short or cannot be.
fn read_record(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    let whole = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(None),
        _ => Err(error),
    };
    if let Err(error) = from.read_exact(&mut len) {
        return whole(error);
    }
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > RECORD_MAX {
        return Ok(None);
    }
    let mut record = vec![0; len];
    match from.read_exact(&mut record) {
        Ok(()) => Ok(Some(record)),
        Err(error) => whole(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glg_proto::command::{DocumentKind, KeyId};
    use ring::digest::digest;
    use std::io::Cursor;

    const ID: CommandId = CommandId { key: KeyId([7; 8]), counter: 9 };
    const TEXT: &[u8] = b"abcdefghij";

    fn made() -> Made {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, TEXT).as_ref());
        let bytes = u32::try_from(TEXT.len()).unwrap();
        Made { kind: DocumentKind::Full, pid: 1, bytes, part_bytes: 4, sha256 }
    }

    fn part(index: u32, bytes: &[u8]) -> Vec<u8> {
        let part = Part { command: ID, index, of: 3, bytes };
        [&part.head().unwrap()[..], bytes].concat()
    }

    fn begun() -> Parts<Cursor<Vec<u8>>> {
        Parts::begin(ID, made(), b"receipt", 100, Cursor::new(Vec::new())).unwrap()
    }

    fn whole(parts: &mut Parts<Cursor<Vec<u8>>>) -> Vec<u8> {
        let mut out = Vec::new();
        parts.reader().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn any_order_and_twice() {
        let mut parts = begun();
        for (index, bytes, new) in
            [(2, &b"ij"[..], true), (0, b"abcd", true), (2, b"ij", false), (0, b"xxxx", false)]
        {
            assert_eq!(parts.take(&part(index, bytes)).unwrap(), new);
        }
        assert_eq!((parts.first_missing(), parts.have()), (Some(1), 6));
        assert!(parts.reader().read_to_end(&mut Vec::new()).is_err());
        assert!(parts.take(&part(1, b"efgh")).unwrap());
        assert_eq!(parts.first_missing(), None);
        assert!(parts.verify().unwrap());
        assert_eq!(whole(&mut parts), TEXT);
    }

    #[test]
    fn what_cannot_be_a_part_of_it_is_passed_over() {
        let mut parts = begun();
        let other = Part { command: CommandId { counter: 8, ..ID }, index: 0, of: 3, bytes: b"abcd" };
        let more = Part { command: ID, index: 3, of: 4, bytes: b"abcd" };
        for part in [other, more] {
            let bytes = [&part.head().unwrap()[..], part.bytes].concat();
            assert!(!parts.take(&bytes).unwrap());
        }
        for wrong in [part(0, b"abc"), part(0, b"abcde"), part(2, b"ijk"), Vec::new(), vec![1; 40]] {
            assert!(!parts.take(&wrong).unwrap());
        }
        assert_eq!(parts.have(), 0);
    }

    #[test]
    fn wrong_bytes_begin_anew() {
        let mut parts = begun();
        for (index, bytes) in [(0, &b"abcd"[..]), (1, b"EFGH"), (2, b"ij")] {
            parts.take(&part(index, bytes)).unwrap();
        }
        assert!(!parts.verify().unwrap());
        assert_eq!((parts.first_missing(), parts.have()), (Some(0), 0));
        for (index, bytes) in [(0, &b"abcd"[..]), (1, b"efgh"), (2, b"ij")] {
            assert!(parts.take(&part(index, bytes)).unwrap());
        }
        assert!(parts.verify().unwrap());
    }

    #[test]
    fn goes_on_from_every_point_at_which_it_was_cut() {
        let mut parts = begun();
        for (index, bytes) in [(1, &b"efgh"[..]), (0, b"abcd"), (2, b"ij")] {
            parts.take(&part(index, bytes)).unwrap();
        }
        let log = parts.store.into_inner();
        for cut in 0..=log.len() {
            let store = Cursor::new(log[..cut].to_vec());
            let resumed = Parts::resume(store, 100, |receipt| {
                assert_eq!(receipt, b"receipt");
                Ok::<_, PartsError>((ID, made()))
            });
            let Ok(mut resumed) = resumed else {
                assert!(cut < 11, "{cut}");
                continue;
            };
            for (index, bytes) in [(0, &b"abcd"[..]), (1, b"efgh"), (2, b"ij")] {
                resumed.take(&part(index, bytes)).unwrap();
            }
            assert!(resumed.verify().unwrap(), "{cut}");
            assert_eq!(whole(&mut resumed), TEXT);
        }
    }

    #[test]
    fn announcements_that_cannot_be() {
        let begin = |made| Parts::begin(ID, made, b"", 100, Cursor::new(Vec::new())).err();
        for wrong in [
            Made { bytes: 0, ..made() },
            Made { part_bytes: 0, ..made() },
            Made { part_bytes: u16::MAX, ..made() },
            Made { part_bytes: 1, bytes: u32::MAX, ..made() },
        ] {
            assert!(matches!(begin(wrong), Some(PartsError::Nonsense)));
        }
        assert!(matches!(begin(Made { bytes: 101, ..made() }), Some(PartsError::TooLarge(101))));
    }
}
