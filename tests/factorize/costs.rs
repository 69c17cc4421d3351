//! What a choice costs is what its factors are.

use onnx_bsr::factorize::{Factors, Fit, Scheme};
use onnx_bsr::layer::Extent;

use super::cases::all;

/// Three different numbers of positions, so that none stands for another.
const AT: Extent = Extent { input: 1009, middle: 211, output: 37 };

#[test]
fn params_and_macs_are_those_of_the_factors() {
    for case in all() {
        let fits: Vec<Fit> = case.weights.iter().map(Fit::of_weight).collect();
        for scheme in case.schemes() {
            // Where each factor is applied, the one applied last first.
            let positions: &[u64] = match scheme {
                Scheme::ChannelOut | Scheme::Matrix => &[AT.output, AT.output],
                Scheme::ChannelIn => &[AT.output, AT.input],
                Scheme::Spatial => &[AT.output, AT.middle],
                Scheme::Tucker => &[AT.output, AT.output, AT.input],
            };
            let curve = case.curve(scheme, &fits);
            for (choice, _) in curve.choices(&case.map).unwrap() {
                let factors = curve.factors(choice, &fits, &case.bias).unwrap();
                assert_eq!(factors.groups.len(), case.map.groups);
                assert_eq!(factors.bias.len(), case.map.groups * case.map.rows);
                let parts = || factors.groups.iter().flat_map(|g| g.iter().zip(positions));
                let params: usize = parts().map(|(m, _)| m.len()).sum();
                let macs: u64 = parts().map(|(m, at)| m.len() as u64 * at).sum();
                let name = case.name();
                assert_eq!(choice.params(&case.map), params, "{name}, {choice:?}");
                assert_eq!(choice.macs(&case.map, AT), macs, "{name}, {choice:?}");

                let shapes = |f: &Factors| -> Vec<Vec<(usize, usize)>> {
                    f.groups.iter().map(|g| g.iter().map(|m| m.dim()).collect()).collect()
                };
                let zeros = Factors::zeros(Some(choice), &case.map);
                assert_eq!(shapes(&zeros), shapes(&factors), "{name}, {choice:?}");
            }
        }
    }
}
