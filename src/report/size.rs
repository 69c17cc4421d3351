//! Sizes that are measured, not counted: compressed bytes and memory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, Result};

/// Bytes that the files take together after gzip at level 9, each on its own.
///
/// # Errors
/// When a file can't be read.
pub fn gzip_bytes(files: &[&Path]) -> Result<u64> {
    let mut total = 0;
    for path in files {
        let fault = |source| Error::Read { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(fault)?;
        let mut encoder = GzEncoder::new(Count(0), Compression::best());
        io::copy(&mut file, &mut encoder).map_err(fault)?;
        total += encoder.finish().map_err(fault)?.0;
    }
    Ok(total)
}

/// Counts what is written to it.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The most memory that this process has had resident; none where the system doesn't tell.
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_sizes_add_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let (zeros, empty) = (dir.path().join("zeros"), dir.path().join("empty"));
        std::fs::write(&zeros, vec![0; 100_000]).expect("written");
        std::fs::write(&empty, []).expect("written");
        let one = gzip_bytes(&[&zeros]).expect("a size");
        assert!(one > 20 && one < 1000, "{one}");
        let none = gzip_bytes(&[&empty]).expect("a size");
        assert_eq!(gzip_bytes(&[&zeros, &empty]).expect("a size"), one + none);
        assert!(gzip_bytes(&[&dir.path().join("missing")]).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_running_process_has_memory() {
        assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
