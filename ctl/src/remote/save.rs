//! What becomes of a document that has come: inflated, expanded, and put in its place whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::read::DeflateDecoder;
use glg_proto::command::DocumentKind;

use super::parts::{Parts, Store};
use crate::pprof::Profile;
use crate::{expand, files};

/// How a dump is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Go's `debug=2`
    Text,
    /// What `go tool pprof` opens
    Pprof,
}

/// Reads or writes no more than so many bytes; more are an error.
struct Limit<T> {
    inner: T,
    left: u64,
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the document is larger than --max-size allows")
}

impl<T: Read> Read for Limit<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(too_large)?;
        Ok(n)
    }
}

impl<T: Write> Write for Limit<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(too_large)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A file that stands in its place only when it is whole.
struct Whole {
    place: PathBuf,
    new: PathBuf,
}

impl Whole {
    fn create(place: &Path) -> io::Result<(Whole, File)> {
        let new = files::beside(place, &format!(".{}.new", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        Ok((Whole { place: place.to_owned(), new }, file))
    }

    fn finish(self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        fs::rename(&self.new, &self.place)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.new);
    }
}

fn inflated<S: Store>(parts: &mut Parts<S>, max: u64) -> BufReader<impl Read> {
    BufReader::new(Limit { inner: DeflateDecoder::new(parts.reader()), left: max })
}

/// A document in memory.
pub(crate) fn to_memory<S: Store>(parts: &mut Parts<S>, max: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    inflated(parts, max).read_to_end(&mut out).context("reading the document")?;
    Ok(out)
}

/// Writes the document to `out`; says how many bytes it has there. `wall_ms` is when it was made, if that is known.
pub(crate) fn to_file<S: Store>(
    parts: &mut Parts<S>,
    out: &Path,
    format: Format,
    max: u64,
    wall_ms: Option<u64>,
) -> Result<u64> {
    let name = || out.display().to_string();
    let grouped = parts.made().kind == DocumentKind::Grouped;
    let from = inflated(parts, max);
    let (whole, file) = Whole::create(out).with_context(name)?;
    let to = Limit { inner: BufWriter::new(&file), left: max };
    match format {
        Format::Text => text(from, to, grouped).with_context(name)?,
        Format::Pprof => {
            let mut profile = Profile::default();
            text(from, Limit { inner: &mut profile, left: max }, grouped).with_context(name)?;
            profile.finish().write(to, wall_ms).with_context(name)?;
        }
    }
    whole.finish(&file).with_context(name)?;
    Ok(file.metadata().with_context(name)?.len())
}

fn text(mut from: impl io::BufRead, mut to: impl Write, grouped: bool) -> Result<()> {
    if grouped {
        expand::expand(from, to)?;
    } else {
        io::copy(&mut from, &mut to)?;
        to.flush()?;
    }
    Ok(())
}
