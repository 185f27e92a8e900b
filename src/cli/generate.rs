//! `farspan generate`: the configuration reference, the manual page, shell completions.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, Command, Subcommand, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;

use super::output::{self, OutputError};
use crate::config;
use crate::error::{Explain, Problems};

/// A manual page that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the manual page {}", page.display())]
struct Unwritten {
    page: PathBuf,
    #[source]
    cause: std::io::Error,
}

impl Explain for Unwritten {
    fn hint(&self) -> Option<String> {
        Some("the directory must be there".to_owned())
    }
}

/// Arguments of `farspan generate`.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A commented configuration file with every key and its default
    Config,
    /// The manual page farspan(1), with all commands
    Man {
        /// Write it there, as farspan.1, and a page for each command beside it: farspan-mirror.1 and so on
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
    /// Completions for a shell: farspan generate completions bash > /etc/bash_completion.d/farspan
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Prints what was asked for; `program` is the whole command line.
///
/// # Errors
/// When standard output does not take it.
pub fn run(arguments: &GenerateArguments, mut program: Command) -> Result<(), Problems> {
    match &arguments.what {
        What::Config => output::print_as_it_is(config::REFERENCE),
        What::Man { directory: None } => output::print_as_it_is(&manual(program)?),
        What::Man { directory: Some(directory) } => write_pages(directory, program),
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut program, "farspan", &mut script);
            output::print_as_it_is(&String::from_utf8_lossy(&script))
        }
    }
}

/// What the manual page says after the commands.
const CLOSING: &str = r#".SH "EXIT STATUS"
.TP
0
everything was done
.TP
1
something failed while running; the ledger tells what was sent before; compare: the captures differ
.TP
2
the command line is wrong: also a bad filter or destination URL; compare: no verdict, a capture cannot be read
.TP
66
there is no such interface or file
.TP
77
not permitted: the message names the capability
.TP
78
the configuration file is wrong
.SH ENVIRONMENT
.TP
FARSPAN_SESSION__NAME__TABLE__KEY
a key of the configuration file, stronger than the file and weaker than flags
.TP
FARSPAN_CONTROL__SOCKET
where status, top, health and the commands to a daemon find its socket, unless a flag says it
.TP
RUST_LOG
which log lines, by module: farspan=debug
.TP
NO_COLOR
no colours in log lines, whatever its value
.SH FILES
.TP
/etc/farspan/farspan.toml, conf.d/*.toml beside it
the configuration of farspan run, unless \-\-config names another; other commands read what \-\-config names. farspan
generate config prints one with every key
.TP
/run/farspan/control.sock
where a running daemon is asked and told
.SH "SEE ALSO"
pcap-filter(7), tcpdump(8), tshark(1), setcap(8)
"#;

/// Writes farspan.1 and a page for each command into `directory`.
fn write_pages(directory: &Path, mut program: Command) -> Result<(), Problems> {
    program.build();
    let mut pages = vec![("farspan".to_owned(), manual(program.clone())?)];
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("farspan-{}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        // `-` alone is a hyphen, `\\-` the minus sign that a name is typed with.
        let typed = name.replace('-', "\\-");
        let title =
            format!(".TH {} 1 \"\" \"farspan {}\" \"User Commands\"\n", name.to_uppercase(), env!("CARGO_PKG_VERSION"));
        let text = [&title, ".SH NAME\n", &typed, " \\- ", &about, "\n", &sections(command)?, SEE_WHOLE].concat();
        pages.push((name, named(&text)));
    }
    for (name, text) in pages {
        let page = directory.join(format!("{name}.1"));
        fs::write(&page, text).map_err(|cause| Unwritten { page, cause })?;
    }
    Ok(())
}

/// The end of a command's own page.
const SEE_WHOLE: &str = ".SH \"SEE ALSO\"\nfarspan(1): options of every command, exit status, environment, files\n";

/// Synopsis, description, options and examples of one command.
fn sections(command: &Command) -> Result<String, Problems> {
    // The program's own options are said once, on its page.
    let own = command.clone().mut_args(|arg| if is_everywhere(&arg) { arg.hide(true) } else { arg });
    let section = Man::new(own);
    rendered(|out| {
        section.render_synopsis_section(out)?;
        section.render_description_section(out)?;
        section.render_options_section(out)?;
        if command.get_after_help().is_some() { section.render_extra_section(out) } else { Ok(()) }
    })
}

/// One page: the program, then each command with its options.
fn manual(mut program: Command) -> Result<String, Problems> {
    program.build();
    let page = Man::new(program.clone());
    let mut text = format!(".TH FARSPAN 1 \"\" \"farspan {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
    text += &rendered(|out| {
        page.render_name_section(out)?;
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)
    })?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        text += &[".SH \"FARSPAN ", &command.get_name().to_uppercase(), "\"\n"].concat();
        // Inside a command's section its parts are subsections.
        text += &sections(command)?.replace(".SH ", ".SS ");
        for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
            let about = part.get_about().map(ToString::to_string).unwrap_or_default();
            text += &[".TP\n", part.get_name(), "\n", &about, "\n"].concat();
        }
    }
    text += &rendered(|out| page.render_extra_section(out))?;
    text += CLOSING;
    Ok(named(&text))
}

/// Gives a name to what stands behind a command's options: examples, or what else there is to know.
fn named(text: &str) -> String {
    text.replace(" EXTRA\nExamples:\n", " EXAMPLES\n").replace(" EXTRA\n", " NOTES\n")
}

fn is_everywhere(arg: &Arg) -> bool {
    arg.is_global_set() || arg.get_id() == "help"
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Result<String, Problems> {
    let mut out = Vec::new();
    render(&mut out).map_err(OutputError::from)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
