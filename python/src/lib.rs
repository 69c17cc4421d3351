//! The Python package's native part: it runs command lines with data in memory. What Python users see is
//! in `package/onnx_bsr`.

mod errors;
mod run;
mod samples;

use std::path::PathBuf;

use onnx_bsr::compress;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// As in the program: long runs make and drop many large arrays from several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A folder for files that go with this object.
#[pyclass(frozen)]
struct Scratch(compress::Scratch);

#[pymethods]
impl Scratch {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        compress::Scratch::new().map(Self).map_err(|error| errors::raise(py, &error))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn put(&self, py: Python<'_>, name: &str, bytes: &[u8]) -> PyResult<PathBuf> {
        py.detach(|| self.0.put(name, bytes)).map_err(|error| errors::raise(py, &error))
    }

    fn take<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.take(name)).map_err(|error| errors::raise(py, &error))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// Name, help, whether it takes no value, and whether it repeats, of every flag of a command.
#[pyfunction]
#[pyo3(signature = (command=None))]
fn flags(command: Option<&str>) -> Vec<(String, String, bool, bool)> {
    let flags = onnx_bsr::cli::flags(command).into_iter();
    flags.map(|flag| (flag.name, flag.help, flag.is_switch, flag.repeats)).collect()
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    onnx_bsr::memory::keep_freed();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Scratch>()?;
    module.add_class::<samples::Samples>()?;
    module.add_function(wrap_pyfunction!(flags, module)?)?;
    module.add_function(wrap_pyfunction!(run::run, module)?)
}
