//! The cases of `fixtures/operator_cases.tar.gz` and others of that form.

#![allow(dead_code, reason = "every test uses a part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use onnx_bsr::onnx::{ModelProto, NodeProto, TensorProto};
use onnx_bsr::tensor::Tensor;
use prost::Message;

/// A one-node model, its inputs and what must come out.
pub struct Case {
    pub name: String,
    pub model: ModelProto,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

impl Case {
    /// The only node.
    pub fn node(&self) -> &NodeProto {
        &self.model.graph.as_ref().unwrap().node[0]
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        let default = self.model.opset_import.iter().find(|o| o.domain().is_empty());
        default.unwrap().version()
    }

    /// The value of each input of the node that is an initializer.
    pub fn constants(&self) -> Vec<Option<Tensor>> {
        let stored = &self.model.graph.as_ref().unwrap().initializer;
        let find = |name: &String| stored.iter().find(|t| t.name() == name);
        let value = |name| find(name).map(|t| t.to_tensor().unwrap());
        self.node().input.iter().map(value).collect()
    }

    /// The inputs of the node, constant or not.
    pub fn values(&self) -> Vec<Option<Tensor>> {
        let graph = self.model.graph.as_ref().unwrap();
        let fed: BTreeMap<&str, &Tensor> =
            graph.input.iter().map(|i| i.name()).zip(&self.inputs).collect();
        let mut values = self.constants();
        for (value, name) in values.iter_mut().zip(&self.node().input) {
            if let Some(tensor) = fed.get(name.as_str()) {
                *value = Some((*tensor).clone());
            }
        }
        values
    }
}

/// All cases, by name.
pub fn cases() -> Vec<Case> {
    cases_of("operator_cases.tar.gz")
}

/// The cases of an archive in `fixtures`, by name.
pub fn cases_of(archive: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(archive);
    let packed = flate2::read::GzDecoder::new(File::open(path).unwrap());
    let mut folders: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar::Archive::new(packed).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let (folder, file) = path.rsplit_once('/').unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        folders.entry(folder.to_owned()).or_default().insert(file.to_owned(), bytes);
    }
    let tensors = |files: &BTreeMap<String, Vec<u8>>, kind: &str| {
        let names = (0..).map(|i| format!("{kind}_{i}.pb"));
        let stored = names.map_while(|name| files.get(&name));
        let decode = |bytes: &Vec<u8>| TensorProto::decode(bytes.as_slice()).unwrap();
        stored.map(|bytes| decode(bytes).to_tensor().unwrap()).collect::<Vec<_>>()
    };
    folders
        .into_iter()
        .map(|(name, files)| Case {
            name,
            model: ModelProto::decode(files["model.onnx"].as_slice()).unwrap(),
            inputs: tensors(&files, "input"),
            outputs: tensors(&files, "output"),
        })
        .collect()
}
