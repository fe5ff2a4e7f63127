//! The command line as a program sees it: exit codes, and what is printed where.
//! The whole life of an edge's state is driven through the program in `edge/tests`.

use clap::CommandFactory;

#[test]
fn the_command_line_is_one_that_clap_can_parse() {
    super::Arguments::command().debug_assert();
}
