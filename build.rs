//! Generates the ONNX types from `proto/onnx.proto`, in Rust alone (no `protoc` is needed), and finds
//! out which tract the program is built with.

/// The version of tract that the lock file names; empty without one.
fn tract_version() -> String {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let after = lock.split("name = \"tract-onnx\"").nth(1).unwrap_or_default();
    after.split('"').nth(1).unwrap_or_default().to_owned()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rustc-env=TRACT_VERSION={}", tract_version());
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // `Bytes` fields share the file's mapping instead of copying it.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
