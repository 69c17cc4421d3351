use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::graph;
use crate::onnx::Model;

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

/// Reads, writes and reads again every model below the folders in `ONNX_BSR_MODELS`, as a list of
/// paths; without it, nothing.
#[test]
fn models_of_a_folder_survive() {
    let Some(folders) = std::env::var_os("ONNX_BSR_MODELS") else { return };
    let mut paths = Vec::new();
    std::env::split_paths(&folders).for_each(|folder| models(&folder, &mut paths));
    paths.sort();
    let target = tempfile::tempdir().unwrap();
    let mut counts = BTreeMap::<&str, usize>::new();
    for path in &paths {
        let model = match Model::read(path) {
            Ok(model) => model,
            Err(error) => {
                *counts.entry("refused").or_default() += 1;
                println!("refused: {}: {}", path.display(), error.chain());
                continue;
            }
        };
        *counts.entry("read").or_default() += 1;
        let out = target.path().join("out.onnx");
        model.write(&out).unwrap();
        let again = Model::read(&out).unwrap();
        // Only the place of external data may change. Bytes are compared, as NaN is not equal to
        // itself.
        if model.external.is_empty() {
            let (was, is) = (model.proto.encode_to_vec(), again.proto.encode_to_vec());
            assert!(was == is, "{}", path.display());
        } else {
            *counts.entry("with external data").or_default() += 1;
        }
        assert!(again.to_bytes().unwrap() == model.to_bytes().unwrap(), "{}", path.display());
        if fs::read(path).unwrap() == fs::read(&out).unwrap() {
            *counts.entry("same bytes").or_default() += 1;
        } else {
            println!("other bytes: {}", path.display());
        }
        for (name, constant) in graph::constants(&model) {
            *counts.entry("constants").or_default() += 1;
            match constant.tensor(&model) {
                Ok(Some(_)) => *counts.entry("constants decoded").or_default() += 1,
                Ok(None) => panic!("{name} in {} has no value", path.display()),
                Err(error) => println!("not decoded: {}: {}", path.display(), error.chain()),
            }
        }
    }
    println!("{counts:?}");
}
