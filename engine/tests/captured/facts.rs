//! What is read of a capture is what the program said of itself.

use glg_engine::runtime::Runtime;
use glg_engine::symbols::Symbols;

use crate::capture::{Capture, Replay};
use crate::reading::Reading;
use crate::traceback;

/// A captured process, its runtime found and confirmed.
pub(crate) struct Process<'c> {
    capture: &'c Capture,
    pub(crate) memory: Replay<'c>,
    file: Replay<'c>,
    pub(crate) runtime: Runtime,
}

impl<'c> Process<'c> {
    pub(crate) fn open(capture: &'c Capture) -> Process<'c> {
        let (mut memory, mut file) = (Replay::new(&capture.memory), Replay::new(&capture.file));
        let opened = Reading { memory: &mut memory, image: &mut file }.open(capture.entry);
        let runtime =
            opened.unwrap_or_else(|e| panic!("{}: {e}{}{}", name(capture), memory.hint(), file.hint()));
        Process { capture, memory, file, runtime }
    }

    pub(crate) fn parts(&mut self) -> (Reading<'_>, &Runtime) {
        (Reading { memory: &mut self.memory, image: &mut self.file }, &self.runtime)
    }

    /// What the process said, and the words for a failure: also which addresses were missing.
    fn said(&self) -> (&'c Capture, String) {
        let what = format!("{}{}{}", name(self.capture), self.memory.hint(), self.file.hint());
        (self.capture, what)
    }

    pub(crate) fn count_is_right(&mut self) {
        let (mut reading, runtime) = self.parts();
        let count = reading.count(runtime);
        let (said, what) = self.said();
        assert_eq!(count, Ok(said.count), "{what}");
    }

    pub(crate) fn census_is_right(&mut self) {
        let (mut reading, runtime) = self.parts();
        let census = reading.census(runtime);
        let (said, what) = self.said();
        let (sites, total) = census.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(sites, said.sites, "{what}");
        // Tracebacks show goroutines of the runtime that run what is the user's, its number leaves them out.
        assert_eq!(total, traceback::blocks(&said.plain).len(), "{what}");
    }

    pub(crate) fn threads_are_right(&mut self) {
        let (mut reading, runtime) = self.parts();
        let locked = reading.locked(runtime);
        let (said, what) = self.said();
        let blocks = traceback::blocks(&said.plain);
        let says = |block: &str| block.lines().next().is_some_and(|head| head.contains("locked to thread"));
        let inside = blocks.into_iter().filter(|(_, block)| says(block)).map(|(number, _)| number);
        assert_eq!(locked, Ok(inside.collect()), "{what}");
    }

    pub(crate) fn dumps_are_right(&mut self) {
        let (mut reading, runtime) = self.parts();
        let symbols = reading.symbols(runtime);
        let (_, what) = self.said();
        self.dumps_are_right_with(&mut symbols.unwrap_or_else(|e| panic!("{what}: {e}")));
    }

    pub(crate) fn dumps_are_right_with(&mut self, symbols: &mut Symbols) {
        let now_ns = self.capture.now_ns;
        let (mut reading, runtime) = self.parts();
        let dumps = [false, true].map(|grouped| reading.dump(runtime, symbols, now_ns, grouped));
        let (said, what) = self.said();
        let [plain, grouped] = dumps.map(|dump| dump.unwrap_or_else(|e| panic!("{what}: {e}")));
        traceback::compare(&what, &said.plain, &plain);
        traceback::compare_grouped(&what, &said.grouped, &grouped);
    }
}

/// For messages.
pub(crate) fn name(capture: &Capture) -> String {
    format!("{}, Go {}, {}", capture.name, capture.release, capture.arch)
}
