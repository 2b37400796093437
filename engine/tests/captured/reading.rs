//! What the engine makes of a capture.

use std::collections::{BTreeMap, BTreeSet};

use glg_engine::census::{Census, SiteCount};
use glg_engine::dump::{self, Groups};
use glg_engine::goroutines::{Counter, Walker};
use glg_engine::locks::threads;
use glg_engine::memory::{Addr, Error, Image, Memory};
use glg_engine::runtime::Runtime;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, Tracer};

use crate::capture::Site;

const CHUNK: usize = 64 * 1024;
const MANY: u64 = 200_000;
const THREADS: usize = 256;
/// Different sites and stacks that a test program may have.
const GROUPS: usize = 256;
const LIMITS: TraceLimits =
    TraceLimits { goroutines: MANY, stack_bytes: 1 << 20, frames: 4096, places: 8192, text_bytes: 4 << 20 };

/// Everything that is read of a process, by way of `memory` and `image`.
pub(crate) struct Reading<'m> {
    pub(crate) memory: &'m mut dyn Memory,
    pub(crate) image: &'m mut dyn Image,
}

impl Reading<'_> {
    /// Its runtime, found and confirmed.
    pub(crate) fn open(&mut self, entry: u64) -> Result<Runtime, Error> {
        let mut runtime = Runtime::open(self.image, Addr(entry))?;
        runtime.confirm(self.memory)?;
        Ok(runtime)
    }

    /// Its number of goroutines.
    pub(crate) fn count(&mut self, runtime: &Runtime) -> Result<u32, Error> {
        Counter::default().count(runtime, self.memory)
    }

    /// Its goroutines by site, and how many they are.
    pub(crate) fn census(&mut self, runtime: &Runtime) -> Result<(BTreeMap<Site, u64>, usize), Error> {
        let (mut walker, mut census) = (Walker::new(CHUNK), Census::new(GROUPS));
        census.take(&mut walker, runtime, self.memory, self.image, MANY)?;
        let mut sites = BTreeMap::new();
        for site in census.sites() {
            let key = self.site(runtime, site)?;
            *sites.entry(key).or_default() += u64::from(site.count);
        }
        Ok((sites, usize::try_from(census.total()).unwrap()))
    }

    /// A site in the program's own words. Of what the runtime has created Go says nothing: that is the main
    /// goroutine, and those that run finalisers and cleanups.
    fn site(&mut self, runtime: &Runtime, site: &SiteCount) -> Result<Site, Error> {
        let runs = runtime.creation(self.image, site.startpc.plus(1)?)?.function;
        let place = runtime.creation(self.image, site.key.gopc)?;
        let wait = site.key.wait.as_str().to_owned();
        Ok(match place.function.as_str() {
            _ if runs == "runtime.main" => (String::new(), String::new(), 0, "main".to_owned()),
            creator if creator.starts_with("runtime.") => (String::new(), String::new(), 0, wait),
            creator => (creator.to_owned(), place.file.to_string(), u64::from(place.line), wait),
        })
    }

    /// Numbers of the goroutines that are locked to a thread, according to its threads.
    pub(crate) fn locked(&mut self, runtime: &Runtime) -> Result<BTreeSet<u64>, Error> {
        let mut all = Vec::new();
        if threads::list(runtime, self.memory, THREADS, &mut all)? {
            return Err(Error::Unsupported("more threads than a test program has"));
        }
        let mut goids = BTreeSet::new();
        for g in all.iter().filter_map(|thread| thread.lockedg) {
            goids.extend(threads::goroutine(runtime, self.memory, g)?.map(|on| on.goid));
        }
        Ok(goids)
    }

    /// What its code is, remembered from one dump to the next.
    pub(crate) fn symbols(&mut self, runtime: &Runtime) -> Result<Symbols, Error> {
        Symbols::new(runtime, self.image, LIMITS.places, LIMITS.text_bytes)
    }

    /// Its stacks, one by one or `grouped`.
    pub(crate) fn dump(
        &mut self,
        runtime: &Runtime,
        symbols: &mut Symbols,
        now_ns: u64,
        grouped: bool,
    ) -> Result<String, Error> {
        let mut target = Target { runtime, memory: &mut *self.memory, image: &mut *self.image, symbols };
        let (mut tracer, mut text) = (Tracer::new(LIMITS), String::new());
        let dumped = if grouped {
            dump::grouped(&mut tracer, &mut target, &mut Groups::new(GROUPS), &mut text)
        } else {
            dump::plain(&mut tracer, &mut target, now_ns, &mut text)
        };
        match dumped {
            Ok(_) => Ok(text),
            Err(dump::DumpError::Foreign(error)) => Err(error),
            Err(dump::DumpError::Write) => panic!("a string takes everything"),
        }
    }
}
