//! Runs an ONNX model in rten: `peer-rten MODEL FOLDER`.
//!
//! `FOLDER/inputs.txt` has a line for each input, `NAME<tab>f32|i32<tab>DIM,DIM,..`, and `FOLDER/in0.bin` and on their
//! elements. Outputs are written likewise, as `outputs.txt` and `out0.bin` and on. rten keeps integers in 32 bits.

use std::error::Error;
use std::fs;
use std::path::Path;

use rten::{Model, Value, ValueOrView};
use rten_tensor::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = &args[..] else { return Err("usage: peer-rten MODEL FOLDER".into()) };
    let folder = Path::new(folder);
    let model = Model::load_file(model)?;
    let mut inputs = Vec::new();
    for (i, line) in fs::read_to_string(folder.join("inputs.txt"))?.lines().enumerate() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [name, kind, dims] = parts[..] else { return Err("a line of inputs.txt has not three parts".into()) };
        let shape = dims.split(',').filter(|d| !d.is_empty()).map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let bytes = fs::read(folder.join(format!("in{i}.bin")))?;
        let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let value = match kind {
            "f32" => Value::from_shape(&shape, words.map(f32::from_le_bytes).collect::<Vec<_>>())?,
            "i32" => Value::from_shape(&shape, words.map(i32::from_le_bytes).collect::<Vec<_>>())?,
            other => return Err(format!("elements of type {other}").into()),
        };
        inputs.push((model.node_id(name)?, ValueOrView::Value(value)));
    }
    let outputs = model.run(inputs, model.output_ids(), None)?;
    let mut list = String::new();
    for (i, (id, value)) in model.output_ids().iter().zip(outputs).enumerate() {
        let name = model.node_info(*id).and_then(|info| info.name().map(str::to_owned)).unwrap_or_default();
        let (kind, shape, bytes): (_, Vec<usize>, Vec<u8>) = match value {
            Value::FloatTensor(t) => {
                ("f32", t.shape().to_vec(), t.to_vec().into_iter().flat_map(f32::to_le_bytes).collect())
            }
            Value::Int32Tensor(t) => {
                ("i32", t.shape().to_vec(), t.to_vec().into_iter().flat_map(i32::to_le_bytes).collect())
            }
            _ => return Err(format!("output `{name}` has a type that isn't written").into()),
        };
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        list.push_str(&format!("{name}\t{kind}\t{}\n", dims.join(",")));
        fs::write(folder.join(format!("out{i}.bin")), bytes)?;
    }
    fs::write(folder.join("outputs.txt"), list)?;
    Ok(())
}
