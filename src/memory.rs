//! Settings of the memory allocator that the programs use.

use std::ffi::{c_int, c_long};

use mimalloc as _;

/// mimalloc's number of the option that says after how many milliseconds freed memory is given
/// back to the operating system.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps freed memory for a second: what a run of a graph frees, the next one asks for, and pages
/// that come back from the system have to be cleared first. Without effect in a program that uses
/// another allocator.
pub fn keep_freed() {
    // SAFETY: mimalloc is linked in, and takes options at any time.
    unsafe { mi_option_set(PURGE_DELAY, 1000) };
}
