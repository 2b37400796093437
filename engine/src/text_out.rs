//! Text on its way out, in pieces that are worth a call: a dump is made of millions of short ones.

use alloc::string::String;
use core::fmt::{self, Write};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Collects text and passes it on when there is much of it. After an error nothing more is passed on.
pub(crate) struct TextOut<'o> {
    text: String,
    out: &'o mut dyn Write,
    written: fmt::Result,
}

impl<'o> TextOut<'o> {
    /// Bytes of text that are enough to be passed on.
    const FULL: usize = 32 << 10;
    /// Bytes that one takes: what comes between two calls of [`TextOut::turn`] finds room above.
    pub(crate) const BYTES: usize = TextOut::FULL + (8 << 10);

    pub(crate) fn new(out: &'o mut dyn Write) -> TextOut<'o> {
        TextOut { text: String::with_capacity(TextOut::BYTES), out, written: Ok(()) }
    }

    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// As `{number}` of the formatter, which takes several times as long.
    pub(crate) fn decimal(&mut self, number: u64) {
        self.digits::<10>(number);
    }

    /// As `{number:#x}`.
    pub(crate) fn hexadecimal(&mut self, number: u64) {
        self.push("0x");
        self.digits::<16>(number);
    }

    fn digits<const BASE: u64>(&mut self, mut number: u64) {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        for place in digits.iter_mut().rev() {
            let digit = usize::try_from(number % BASE).ok().and_then(|value| DIGITS.get(value));
            *place = digit.copied().unwrap_or_default();
            first -= 1;
            number /= BASE;
            if number == 0 {
                break;
            }
        }
        let digits = digits.get(first..).and_then(|digits| core::str::from_utf8(digits).ok());
        self.push(digits.unwrap_or_default());
    }

    /// Passes the text on if there is enough of it; whether all could be written so far.
    pub(crate) fn turn(&mut self) -> bool {
        if self.text.len() >= TextOut::FULL {
            self.pass_on();
        }
        self.written.is_ok()
    }

    /// Passes on what there is.
    ///
    /// # Errors
    /// The first one of the writer.
    pub(crate) fn finish(mut self) -> fmt::Result {
        self.pass_on();
        self.written
    }

    fn pass_on(&mut self) {
        if self.written.is_ok() {
            self.written = self.out.write_str(&self.text);
        }
        self.text.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn numbers_are_those_of_the_formatter() {
        let (mut text, mut expected) = (String::new(), String::new());
        let mut out_text = TextOut::new(&mut text);
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift, 9_876_543_210 >> shift] {
                out_text.decimal(number);
                out_text.push(" ");
                out_text.hexadecimal(number);
                out_text.push("\n");
                expected += &format!("{number} {number:#x}\n");
            }
        }
        out_text.finish().unwrap();
        assert_eq!(text, expected);
    }

    /// Takes so many pieces.
    struct Calls(usize, usize);

    impl Write for Calls {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.1 += text.len();
            self.0 = self.0.checked_sub(1).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    #[test]
    fn much_goes_out_in_few_pieces_until_one_fails() {
        let mut out = Calls(2, 0);
        let mut out_text = TextOut::new(&mut out);
        let line = "0123456789abcde\n";
        let lines = TextOut::FULL / line.len();
        for i in 0..4 * lines {
            out_text.push(line);
            assert_eq!(out_text.turn(), i < 3 * lines - 1, "{i}");
            assert!(out_text.text.capacity() <= TextOut::BYTES);
        }
        assert_eq!(out_text.finish(), Err(fmt::Error));
        assert_eq!((out.0, out.1), (0, 3 * TextOut::FULL));
    }
}
