//! Every weight of a model: what it costs and whether it can be factorized.

use std::path::Path;

use super::DataSource;
use crate::error::Result;
use crate::factorize::{Choice, Scheme};
use crate::graph;
use crate::layer::{Filter, Layer, PRODUCTS, find, prepare, shapes};
use crate::onnx::Model;
use crate::options::Options;
use crate::report::{
    InspectLayer, InspectModel, InspectReport, InspectTotals, InspectValue, SCHEMA_VERSION,
};
use crate::validate::{concrete_shapes, random_inputs};

/// Lists a model's weights. Without `data`, shapes come from the model and `shapes`; where dims stay
/// open, multiply-accumulates are left out with a warning.
///
/// # Errors
/// When the model or the data can't be read.
pub fn inspect(
    input: &Path,
    open: &[(String, Vec<usize>)],
    data: Option<&DataSource>,
    options: &Options,
) -> Result<InspectReport> {
    let mut model = Model::read(input)?;
    let (bytes, nodes) = (model.encoded_len(), model.graph().node.len());
    prepare(&mut model)?;
    let filter = Filter::new(&options.include, &options.exclude)?;
    let layers = find(&model, &filter)?;
    filter.check(&options.include, &options.exclude, &layers)?;
    let mut warnings = Vec::new();
    let specs = match graph::inputs(&model) {
        Ok(specs) => specs,
        Err(error) if data.is_none() => {
            warnings.push(error.chain());
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let sample = match data {
        Some(data) => data.open(&specs)?.batch(&[0]),
        None => concrete_shapes(&specs, open).and_then(|s| random_inputs(&specs, &s, options.seed)),
    };
    let values = sample.and_then(|inputs| shapes(&model, inputs));
    if let Err(error) = &values {
        warnings.push(format!("multiply-accumulates are not known: {}", error.chain()));
    }
    let values = values.ok();
    let listed: Vec<InspectLayer> = layers
        .iter()
        .map(|layer| InspectLayer {
            name: layer.weight.clone(),
            node: layer.name.clone(),
            op_type: layer.op_type.clone(),
            shape: layer.shape.clone(),
            params: layer.weight_params + layer.bias_params,
            macs: values.as_ref().and_then(|v| layer.macs(&model, v)),
            full_rank: layer.map.as_ref().map(|m| m.full_rank()),
            rank_bound: rank_bound(layer),
            eligible: layer.map.is_some(),
            reason: layer.skip.clone(),
        })
        .collect();
    let eligible = || listed.iter().filter(|l| l.eligible);
    let products = || listed.iter().filter(|l| PRODUCTS.contains(&l.op_type.as_str()));
    let totals = InspectTotals {
        params: crate::quantize::params(&model),
        macs: values.as_ref().map(|_| products().filter_map(|l| l.macs).sum()),
        eligible_params: eligible().map(|l| l.params).sum(),
        eligible_macs: values.as_ref().map(|_| eligible().filter_map(|l| l.macs).sum()),
        eligible_layers: eligible().count(),
    };
    let value = |name: &str, data_type: String, shape| InspectValue {
        name: name.to_owned(),
        data_type,
        shape,
    };
    let inputs = specs
        .iter()
        .map(|s| value(&s.name, format!("{:?}", s.data_type).to_lowercase(), s.shape.clone()))
        .collect();
    let outputs = graph::outputs(&model)
        .into_iter()
        .map(|s| value(&s.name, format!("{:?}", s.data_type).to_lowercase(), s.shape))
        .collect();
    Ok(InspectReport {
        schema_version: SCHEMA_VERSION,
        model: InspectModel {
            name: input.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ir_version: model.proto.ir_version(),
            opset: model.opset(""),
            nodes,
            bytes,
        },
        inputs,
        outputs,
        layers: listed,
        totals,
        warnings,
    })
}

/// The largest rank of two factors over the whole unfolding that still has fewer weights.
fn rank_bound(layer: &Layer) -> Option<usize> {
    let map = layer.map.as_ref()?;
    let scheme = match map.kernel() {
        _ if map.is_transposed() => Scheme::ChannelIn,
        [] => Scheme::Matrix,
        _ => Scheme::ChannelOut,
    };
    let params = |rank| Choice { scheme, rank, rank_in: None }.params(map) as u64;
    (1..=map.full_rank()).take_while(|&rank| params(rank) < layer.weight_params).last()
}
