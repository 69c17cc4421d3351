//! What the fuzz targets share with the property tests of `tests/hostile`.

#[path = "../../tests/hostile/exercise.rs"]
pub mod exercise;
#[path = "../../tests/hostile/watched.rs"]
mod watched;

use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

pub use watched::watched;

/// A folder of this process for the files that readers want, in memory where the system has such.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder")
    });
    folder.path()
}
