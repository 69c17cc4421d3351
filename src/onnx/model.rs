//! A model in memory: read, checked, and ready to be edited.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;

use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::{check, external, tensor, walk};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// An ONNX model. Weights that were not edited share the mapping of the file they were read from.
#[derive(Clone, Debug)]
pub struct Model {
    /// Everything the file says.
    pub proto: ModelProto,
    pub(super) external: external::Files,
    pub(super) mappings: external::Mappings,
}

impl Model {
    /// Reads a model and maps the files its external tensors lie in.
    ///
    /// The files must not be cut short while the model is in use; replacing them is harmless.
    ///
    /// # Errors
    /// [`Error::Read`] when a file can't be read, [`Error::NotOnnx`] when the bytes are no model,
    /// [`Error::InvalidModel`] when a value has no definition, or two, or comes too late, and
    /// [`Error::BadTensor`] when a constant's data is missing, misplaced or of the wrong length.
    pub fn read(path: &Path) -> Result<Self> {
        let mut mappings = Vec::new();
        let mut proto = check::parse(external::map(path, &mut mappings)?)
            .map_err(|reason| Error::NotOnnx { path: path.to_owned(), reason })?;
        let external = external::map_all(&mut proto, folder(path), &mut mappings)?;
        Self { proto, external, mappings }.checked()
    }

    /// A model from the bytes of a file that needs no other.
    ///
    /// # Errors
    /// As [`Model::read`], with [`Error::InvalidModel`] for bytes that are no model.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let proto = check::parse(bytes.into()).map_err(not_a_model)?;
        Self { proto, external: external::Files::new(), mappings: Vec::new() }.checked()
    }

    /// A model from a message whose tensors all hold their data.
    ///
    /// # Errors
    /// As [`Model::from_bytes`].
    pub fn from_proto(proto: ModelProto) -> Result<Self> {
        check::identity(&proto).map_err(not_a_model)?;
        Self { proto, external: external::Files::new(), mappings: Vec::new() }.checked()
    }

    fn checked(mut self) -> Result<Self> {
        let Self { proto, external, .. } = &mut self;
        walk::each_tensor(proto, &mut |tensor, _| {
            let stored = if external::is_external(tensor) {
                Some(external::stored(external, tensor)?.len() as u64)
            } else {
                None
            };
            tensor::check(tensor, stored)
        })?;
        check::names(proto)?;
        Ok(self)
    }

    /// The main graph.
    #[must_use]
    pub fn graph(&self) -> &GraphProto {
        // Reading refuses a model without a graph; only a caller who took it away meets this.
        static EMPTY: LazyLock<GraphProto> = LazyLock::new(GraphProto::default);
        self.proto.graph.as_ref().unwrap_or(&EMPTY)
    }

    /// The main graph, for editing.
    pub fn graph_mut(&mut self) -> &mut GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Version of the operator set of `domain`; the empty domain and `ai.onnx` are one.
    #[must_use]
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let imports = &self.proto.opset_import;
        if imports.is_empty() && check::same_domain(domain, "") {
            // What a file from before operator sets means.
            return Some(1);
        }
        imports.iter().find(|set| check::same_domain(set.domain(), domain)).map(|set| set.version())
    }

    /// The elements of a constant of this model, from wherever they are stored.
    ///
    /// # Errors
    /// [`Error::BadTensor`] when the number of stored elements is not the product of the dims, when
    /// an element is out of range, or for an element type that [`Tensor`] doesn't hold (strings,
    /// complex numbers, fewer than 16 bits of float, two bits of integer). Four-bit integers are given
    /// as bytes.
    pub fn tensor(&self, tensor: &TensorProto) -> Result<Tensor> {
        if external::is_external(tensor) {
            tensor::decode(tensor, Some(&external::stored(&self.external, tensor)?))
        } else {
            tensor.to_tensor()
        }
    }

    /// Bytes the elements of a constant of this model take in raw form, wherever and however they
    /// are stored. Strings count their characters alone.
    #[must_use]
    pub fn tensor_byte_len(&self, tensor: &TensorProto) -> u64 {
        if external::is_external(tensor) {
            external::stored(&self.external, tensor).map_or(0, |bytes| bytes.len() as u64)
        } else {
            tensor::inner_byte_len(tensor)
        }
    }

    /// Lets the system take back the memory that pages of the model's files are in; they are read again when
    /// they are needed.
    pub fn release(&self) {
        self.mappings.iter().for_each(|mapping| external::release(mapping));
    }

    /// The same model with another main graph, whose external tensors lie where this one's do.
    #[must_use]
    pub fn with_graph(&self, graph: GraphProto) -> Self {
        let Self { proto, external, mappings } = self;
        let proto = ModelProto {
            graph: Some(graph),
            opset_import: proto.opset_import.clone(),
            functions: proto.functions.clone(),
            producer_name: proto.producer_name.clone(),
            domain: proto.domain.clone(),
            ir_version: proto.ir_version,
            ..ModelProto::default()
        };
        Self { proto, external: external.clone(), mappings: mappings.clone() }
    }

    /// Bytes of all initializers of the main graph.
    #[must_use]
    pub fn initializer_byte_len(&self) -> u64 {
        self.graph().initializer.iter().map(|tensor| self.tensor_byte_len(tensor)).sum()
    }

    /// The model as one protobuf, with external data moved inside: what another runtime can load
    /// from memory.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] above 2 GiB, which no protobuf may exceed, and
    /// [`Error::BadTensor`] for an external tensor that did not come with this model.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.external.is_empty() {
            super::write::check_len(&self.proto)?;
            return Ok(self.proto.encode_to_vec());
        }
        let mut proto = self.proto.clone();
        walk::each_tensor(&mut proto, &mut |tensor, _| {
            if external::is_external(tensor) {
                external::inline(tensor, external::stored(&self.external, tensor)?);
            }
            Ok(())
        })?;
        super::write::check_len(&proto)?;
        Ok(proto.encode_to_vec())
    }
}

impl NodeProto {
    /// The node's name, or its first output where it has none: what messages call it.
    #[must_use]
    pub fn label(&self) -> &str {
        match self.name() {
            "" => self.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str),
            name => name,
        }
    }
}

/// The folder a file lies in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The external file that a model written to `path` may have.
pub(super) fn data_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".data");
    path.with_file_name(name)
}

fn not_a_model(reason: String) -> Error {
    Error::InvalidModel { reason: format!("not an ONNX model: {reason}") }
}
