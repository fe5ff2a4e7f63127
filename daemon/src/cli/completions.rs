//! `keyward completions`: what a shell offers while a command is typed.
//!
//! It offers the nouns too, which the parser itself leaves to [`super::rotate`], so that each that is
//! refused is refused in words of its own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::Arguments;
use crate::operator::Noun;

pub(super) fn print(shell: Shell) -> ExitCode {
    // A pager that was closed early is no failure.
    let _ = std::io::stdout().write_all(&script(shell));
    ExitCode::SUCCESS
}

fn script(shell: Shell) -> Vec<u8> {
    let nouns = PossibleValuesParser::new(Noun::rotated().map(Noun::name));
    let mut command = Arguments::command().mut_subcommand("rotate", |rotate| {
        rotate.mut_arg("what", |what| what.value_parser(nouns))
    });
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "keyward", &mut script);
    if shell == Shell::Fish {
        script.extend(fish_words(&command).into_bytes());
    }
    script
}

/// The generator for fish knows flags only.
fn fish_words(command: &Command) -> String {
    let mut lines = String::new();
    for command in command.get_subcommands() {
        for word in command.get_positionals() {
            let values = word.get_possible_values();
            let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
            if !values.is_empty() {
                let _ = writeln!(
                    lines,
                    "complete -c keyward -n \"__fish_keyward_using_subcommand {}\" -f -a \"{}\"",
                    command.get_name(),
                    values.join(" ")
                );
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zsh_and_fish_are_told_the_nouns() {
        let script = |shell| String::from_utf8(script(shell)).unwrap();
        assert!(script(Shell::Zsh).contains("(server-certificate ca tunnel-token shared-secret)"));
        let fish = script(Shell::Fish);
        for line in [
            "complete -c keyward -n \"__fish_keyward_using_subcommand rotate\" -f -a \"server-certificate ca tunnel-token shared-secret\"\n",
            "complete -c keyward -n \"__fish_keyward_using_subcommand completions\" -f -a \"bash elvish fish powershell zsh\"\n",
        ] {
            assert!(fish.contains(line), "{fish}");
        }
        assert!(fish.contains("function __fish_keyward_using_subcommand"));
    }
}
