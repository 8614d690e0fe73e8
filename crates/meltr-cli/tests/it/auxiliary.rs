//! Whether the learned loss finds out which auxiliary losses help.

use serde_json::Value;

use crate::support::meltr;

#[test]
fn the_learned_loss_ranks_helpful_before_random_before_conflicting() {
    let ended = meltr([
        "bench",
        "auxiliary",
        "--seeds",
        "2",
        "--method",
        "meltr_published",
        "--json",
    ]);
    ended.assert_status(0);
    let report = ended.json();
    let methods: &Vec<Value> = report["methods"].as_array().unwrap();
    assert_eq!(methods.len(), 1);
    assert_eq!(methods[0]["method"], "meltr_published");
    assert_eq!(methods[0]["ranks_rightly"], 2, "{report:#}");
    for run in methods[0]["runs"].as_array().unwrap() {
        let weights: Vec<f64> = run["weights"]
            .as_array()
            .unwrap()
            .iter()
            .map(|weight| weight.as_f64().unwrap())
            .collect();
        assert_eq!(weights.len(), 6);
        // The plain sum ends near 0.9, the primary loss alone near 0.65.
        assert!(run["test_loss"].as_f64().unwrap() < 0.6, "{report:#}");
    }
}

#[test]
fn the_recommended_form_ends_with_harmful_losses_below_a_twentieth_and_helpful_ones_above() {
    let ended = meltr([
        "bench",
        "auxiliary",
        "--seeds",
        "10",
        "--method",
        "meltr",
        "--json",
    ]);
    ended.assert_status(0);
    let report = ended.json();
    for run in report["methods"][0]["runs"].as_array().unwrap() {
        let weights: Vec<f64> = run["last_weights"]
            .as_array()
            .unwrap()
            .iter()
            .map(|weight| weight.as_f64().unwrap())
            .collect();
        let total: f64 = weights.iter().sum();
        // Of the primary loss, two helpful ones, two conflicting ones and a random one.
        let [_, helpful, more_helpful, conflicting, more_conflicting, _] = weights[..] else {
            panic!("{report:#}");
        };
        assert!(helpful.min(more_helpful) > 0.05 * total, "{run:#}");
        assert!(conflicting.max(more_conflicting) < 0.05 * total, "{run:#}");
        assert!(run["test_loss"].as_f64().unwrap() < 0.6, "{run:#}");
    }
}

#[test]
fn a_method_that_is_not_known_is_refused_with_the_nearest_one() {
    meltr(["bench", "auxiliary", "--method", "uncertain"])
        .assert_refused(&["--method `uncertain`", "did you mean `uncertainty`?"]);
}

#[test]
fn no_seeds_are_refused() {
    meltr(["bench", "auxiliary", "--seeds", "0"]).assert_refused(&["--seeds is 0"]);
}
