//! `kiln completion SHELL`.

use crate::model::Failure;

/// Print a completion script: kiln completion bash > /etc/bash_completion.d/kiln
#[derive(clap::Args)]
pub struct Arguments {
    shell: clap_complete::Shell,
}

pub fn run(arguments: Arguments) -> Result<u8, Failure> {
    clap_complete::generate(arguments.shell, &mut crate::cli::command(), "kiln", &mut std::io::stdout());
    Ok(0)
}
