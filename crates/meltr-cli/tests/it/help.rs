//! Help, version and the list of devices.

use crate::support::meltr;

const COMMANDS: [&str; 15] = [
    "score",
    "fine-tune",
    "plan",
    "evaluate",
    "retrieve",
    "caption",
    "answer",
    "sentiment",
    "repro",
    "report",
    "weights",
    "reference",
    "data",
    "devices",
    "bench",
];

#[test]
fn the_overview_names_every_command() {
    let ended = meltr(["--help"]);
    ended.assert_status(0);
    for command in COMMANDS {
        assert!(
            ended.stdout.contains(command),
            "no `{command}` in {}",
            ended.stdout
        );
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for command in COMMANDS {
        let ended = meltr([command, "--help"]);
        ended.assert_status(0);
        let example = ended
            .stdout
            .split_once("Example")
            .map(|(_, example)| example);
        let line = format!("meltr {command}");
        assert!(
            example.is_some_and(|example| example.contains(&line)),
            "{}",
            ended.stdout
        );
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let ended = meltr(["--version"]);
    ended.assert_status(0);
    assert_eq!(
        ended.stdout.trim(),
        format!("meltr {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_command_that_is_not_known_is_refused() {
    meltr(["fine-tuna"]).assert_refused(&["fine-tuna", "fine-tune"]);
}

#[test]
fn a_flag_that_is_not_known_is_refused() {
    meltr(["devices", "--jsn"]).assert_refused(&["--jsn", "--json"]);
}

#[test]
fn no_command_at_all_is_refused() {
    meltr::<&str>([]).assert_status(2);
}

#[test]
fn the_devices_of_the_binary_are_one_json_document() {
    let ended = meltr(["devices", "--json"]);
    ended.assert_status(0);
    let devices = ended.json()["devices"].clone();
    let flex = devices
        .as_array()
        .unwrap()
        .iter()
        .find(|device| device["name"] == "flex");
    assert_eq!(flex.unwrap()["available"], cfg!(feature = "flex"));
}
