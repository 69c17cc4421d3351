//! Settings of the memory allocator that the programs use, and how much memory there is.

use std::ffi::{c_int, c_long};

use mimalloc as _;

/// mimalloc's number of the option that says after how many milliseconds freed memory is given
/// back to the operating system.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps freed memory for half a minute: what a run of a graph frees, a later one asks for, and pages
/// that come back from the system have to be cleared first. Without effect in a program that uses
/// another allocator.
pub fn keep_freed() {
    // SAFETY: mimalloc is linked in, and takes options at any time.
    unsafe { mi_option_set(PURGE_DELAY, 30_000) };
}

/// Bytes of memory that are free, or can be at once; none where the system doesn't tell. A bound of the group of
/// processes that this one is in counts.
#[must_use]
pub fn available() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let bound = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    // Pages of files that nothing has used for a while go first.
    let stat = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let idle: u64 = idle.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
    Some(bound.map_or(free, |bound| free.min(bound.saturating_sub(used.saturating_sub(idle)))))
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn there_is_some() {
        assert!(super::available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
