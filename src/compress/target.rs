//! Whether a result can go where it is to go, before hours are spent on it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Checks that `output` can be written and is not the input, unless `force` allows that.
///
/// # Errors
/// [`Error::WouldOverwrite`] and [`Error::Write`]. A missing input is left to whoever reads it.
pub fn check_output(input: &Path, output: &Path, force: bool) -> Result<()> {
    let fault = |source| Error::Write { path: output.to_owned(), source };
    let Some(name) = output.file_name() else {
        return Err(fault(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")));
    };
    let folder = folder(output);
    let place = fs::canonicalize(folder).map_err(fault)?;
    if !place.is_dir() {
        return Err(fault(io::ErrorKind::NotADirectory.into()));
    }
    match fs::metadata(output) {
        Ok(there) if there.is_dir() => return Err(fault(io::ErrorKind::IsADirectory.into())),
        // A rename would put a file in the place of a device or a pipe.
        Ok(there) if !there.is_file() => {
            return Err(fault(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        _ => {}
    }
    if !force && is_same(input, output, &place, name) {
        return Err(Error::WouldOverwrite { path: output.to_owned() });
    }
    // The result is staged beside the target: only trying tells whether the system allows that.
    tempfile::Builder::new().prefix(".onnx-bsr-").tempfile_in(&place).map_err(fault)?;
    Ok(())
}

/// Whether both are one file, through links or because the output is a name of the input.
fn is_same(input: &Path, output: &Path, place: &Path, name: &OsStr) -> bool {
    let Ok(source) = fs::canonicalize(input) else { return false };
    fs::canonicalize(output).is_ok_and(|target| target == source) || place.join(name) == source
}

/// Whether two paths name one place, whether or not there is a file yet.
pub(super) fn is_one_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let named = || Some(fs::canonicalize(folder(path)).ok()?.join(path.file_name()?));
        fs::canonicalize(path).ok().or_else(named).unwrap_or_else(|| path.to_owned())
    };
    place(a) == place(b)
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_many_names() {
        let dir = tempfile::tempdir().expect("a folder");
        let new = dir.path().join("new");
        assert!(is_one_place(&new, &dir.path().join(".").join("new")));
        assert!(!is_one_place(&new, &dir.path().join("other")));
        assert!(is_one_place(Path::new("x"), Path::new("./x")));
    }

    #[test]
    fn the_input_is_safe() {
        let dir = tempfile::tempdir().expect("a folder");
        let input = dir.path().join("a.onnx");
        fs::write(&input, b"model").expect("written");
        let refused = |output: &Path| check_output(&input, output, false);
        let twin = dir.path().join(".").join("a.onnx");
        assert!(matches!(refused(&twin), Err(Error::WouldOverwrite { .. })));
        assert!(check_output(&input, &twin, true).is_ok());
        #[cfg(unix)]
        {
            let link = dir.path().join("link.onnx");
            std::os::unix::fs::symlink(&input, &link).expect("a link");
            assert!(matches!(refused(&link), Err(Error::WouldOverwrite { .. })));
        }
        assert!(refused(&dir.path().join("b.onnx")).is_ok());
        assert!(matches!(refused(dir.path()), Err(Error::Write { .. })));
        assert!(matches!(refused(&dir.path().join("no/b.onnx")), Err(Error::Write { .. })));
        assert!(matches!(refused(Path::new("/")), Err(Error::Write { .. })));
        assert_eq!(fs::read(&input).expect("there"), b"model");
        assert_eq!(
            fs::read_dir(dir.path()).expect("a folder").count(),
            1 + usize::from(cfg!(unix))
        );
    }
}
