//! The `onnx-bsr` program.

use std::process::ExitCode;

/// Long runs make and drop many large arrays from several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    onnx_bsr::memory::keep_freed();
    onnx_bsr::cli::run(std::env::args_os())
}
