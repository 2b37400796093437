//! The checksum of everything that is written to flash: CRC-32 as of Ethernet and gzip.

use crc::{CRC_32_ISO_HDLC, Crc, Table};

/// One table of 1 KiB: what is summed is short.
static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// Of these bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_everybody_computes_it() {
        assert_eq!(super::of(b"123456789"), 0xcbf4_3926);
    }
}
