//! The published parameter names and shapes of UniVL.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use meltr_models::UniVlConfig;

/// Name, tab, shape of every entry of the published model's state dict, read off the released
/// code (`mlvlab/MELTR@669ad60`) by running it.
const PUBLISHED: &str = include_str!("../reference/univl-keys.tsv");

#[test]
fn the_base_size_has_exactly_the_published_keys_and_shapes() {
    let published: BTreeMap<String, Vec<usize>> = PUBLISHED
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (name, shape) = line.split_once('\t').unwrap();
            let sizes = shape
                .trim_matches(|c| "()[] ".contains(c))
                .split(',')
                .filter_map(|size| size.trim().parse().ok())
                .collect();
            (name.to_owned(), sizes)
        })
        .collect();
    let model = UniVlConfig::base().init(0, &Device::default()).unwrap();
    let ours: BTreeMap<String, Vec<usize>> = model
        .state_dict()
        .into_iter()
        .map(|(name, data)| (name, data.shape().to_vec()))
        .collect();
    assert_eq!(published.len(), 444);
    let missing: Vec<_> = published
        .keys()
        .filter(|name| !ours.contains_key(*name))
        .collect();
    let extra: Vec<_> = ours
        .keys()
        .filter(|name| !published.contains_key(*name))
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:?}, extra {extra:?}"
    );
    for (name, shape) in &published {
        assert_eq!(&ours[name], shape, "{name}");
    }
    assert_eq!(model.num_params(), 199_535_989);
}
