//! Generates the ONNX types from `proto/onnx.proto`, in Rust alone: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // `Bytes` fields share the file's mapping instead of copying it.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
