//! The help of every command.

use std::ffi::OsString;
use std::path::Path;

use crate::command::{Arguments, command_line};

#[test]
fn the_command_line_is_one_that_clap_can_parse() {
    command_line().debug_assert();
}

#[test]
fn a_command_without_use_for_the_state_does_not_speak_of_it() {
    let help = |command: &str| {
        let words = ["keyward-edge", command, "--help"].map(OsString::from);
        Arguments::read(words).unwrap_err().to_string()
    };
    for command in ["agent", "login"] {
        let help = help(command);
        assert!(help.contains("--edge"), "{help}");
        for word in ["--state", "--database-url-file", "--no-reveal"] {
            assert!(!help.contains(word), "{word} for {command}");
        }
    }
    assert!(!help("explain").contains("--no-reveal"));
    for command in ["serve", "explain", "audit"] {
        assert!(help(command).contains("--state"), "{command}");
    }
    for words in [
        &["--state", "/s", "explain", "f"][..],
        &["explain", "f", "--state", "/s"],
    ] {
        let words = ["keyward-edge"].iter().chain(words).map(OsString::from);
        let read = Arguments::read(words).unwrap();
        assert_eq!(read.state.state, Path::new("/s"));
    }
}

/// Every command, with its name from the program's on.
fn commands(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
    found.push((name.to_owned(), command.clone()));
    for inner in command.get_subcommands() {
        commands(&format!("{name} {}", inner.get_name()), inner, found);
    }
}

#[test]
fn the_help_of_every_command_is_whole_and_alike() {
    let mut found = Vec::new();
    commands("keyward-edge", &command_line(), &mut found);
    assert!(found.len() > 30, "{}", found.len());
    for (name, command) in found {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_else(|| panic!("{name}: says nothing"));
        assert!(
            !about.ends_with('.') && about.starts_with(char::is_uppercase),
            "{name}: {about}"
        );
        for word in command.get_arguments() {
            let id = word.get_id();
            let help = word.get_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{name} {id}: says nothing"));
            let begin = help.starts_with(|letter: char| letter.is_uppercase() || letter == '`');
            assert!(begin && !help.ends_with('.'), "{name} {id}: {help}");
            assert!(
                !help.contains("SQLite`") && !help.contains("without:"),
                "{name} {id}: {help}"
            );
            let many = matches!(word.get_action(), clap::ArgAction::Append);
            assert_eq!(
                help.contains("may be repeated"),
                many,
                "{name} {id}: {help}"
            );
            let defaults = help.matches("[default:").count();
            let shown = !word.get_default_values().is_empty() && !word.is_hide_default_value_set();
            let takes = word.get_action().takes_values();
            assert!(
                defaults + usize::from(shown && takes) <= 1,
                "{name} {id}: {help}"
            );
        }
    }
}

#[test]
fn every_word_of_the_agent_is_documented() {
    let page = include_str!("../../../../docs/edge.md");
    let (_, table) = page.split_once("| Word | Default | Effect |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let line = command_line();
    let agent = line.find_subcommand("agent").unwrap();
    for word in agent.get_arguments().filter(|word| !word.is_hide_set()) {
        let Some(word) = word.get_long() else {
            continue;
        };
        let listed = [' ', '`']
            .iter()
            .any(|end| table.contains(&format!("`--{word}{end}")));
        assert!(listed, "--{word}");
    }
}
