// SPDX-License-Identifier: Apache-2.0
//! Command line: options, their defaults, and the combinations that are refused.
//!
//! The options have the names of the C program that this one replaces, and accept `_` for `-`, so
//! that its unit files run this program unchanged. Reads only its arguments.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use early_service_machine::schedule::Period;
use lexopt::{Arg, Parser, ValueExt};

use crate::platform::files::are_same_path;
use crate::service::Service;

pub(crate) fn help<S: Service>() -> String {
    let (about, name) = (S::ABOUT, S::NAME);
    format!(
        "{about}

Usage: {name} [OPTION]...

Options:
  -s, --server-socket-path PATH
          UNIX socket to serve, in addition to those passed by a .socket unit;
          if none is passed, by default
          {name}.sock in the first directory of
          $RUNTIME_DIRECTORY
  -c, --client-socket-path PATH
          UNIX socket of the process to adopt the state from; by default none
      --takeover-existing-socket
          adopt the state from the process that serves the server socket, and
          serve that socket in its place
      --rebind
          root stage only: once serving, replace the socket passed by systemd
          with a newly bound one, so that it gets the correct SELinux label and
          owner; connections made while no process runs are then refused
      --state-file PATH
          file that stores the state; the process that holds its lock owns the
          state, and the next process continues from the file if that process
          dies; use the same file for both stages; by default none
  -d, --timer-delay-ms MS
          time between two ticks, 1 to 4294967295 milliseconds; by default 100
      --successor USER
          user name or number that may request the state, in addition to root,
          the user of this process and the owner of the socket file; by default
          none
      --reload
          ask the process that serves the server socket to replace itself with
          the program on disk, print the result, and exit
      --survive-systemd-kill-signal
          initrd stage: ignore SIGTERM; the unit must also start the program
          with '@' as the first character of argv[0] (systemd.service(5))
  -h, --help
          print this text
  -V, --version
          print the version

Example:
  {name} --server-socket-path /tmp/{name}.sock
  echo status | nc -N -U /tmp/{name}.sock

See {name}(8) for details.
"
    )
}

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run(Options),
    /// Ask the process that serves this socket for a reload.
    Reload(PathBuf),
    Help,
    Version,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) stage: Stage,
    /// The socket to bind; `None` only if systemd passes one.
    pub(crate) server: Option<PathBuf>,
    pub(crate) predecessor: Predecessor,
    /// Whether a newly bound socket replaces the one that systemd passes.
    pub(crate) rebind: bool,
    /// The file that stores the state and whose lock makes a process the owner.
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) period: Period,
    /// A user that may request the state, in addition to root and the user of this process.
    pub(crate) successor: Option<String>,
}

/// The stage of the boot in which the process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Started in the initrd, to survive the switch of root.
    Initrd,
    /// Started from the root filesystem.
    Root,
}

impl Stage {
    /// The name, as `STAGE=` and `status` show it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::Root => "root",
        }
    }

    /// The identifier of this stage's lines in the journal.
    pub(crate) fn identifier(self, service: &str) -> String {
        match self {
            Self::Initrd => format!("{service}-initrd"),
            Self::Root => service.to_owned(),
        }
    }
}

/// The process from which the state is requested.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Predecessor {
    Nobody,
    /// The process that serves this socket.
    At(PathBuf),
    /// The process that serves the server socket.
    OnServerSocket,
}

/// The reason why a command line is refused.
pub(crate) type Error = Box<dyn std::error::Error>;

/// The settings that systemd passes besides the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// The value of `$RUNTIME_DIRECTORY`.
    pub(crate) runtime_directory: Option<OsString>,
    /// Whether a `.socket` unit passes a listening socket.
    pub(crate) passes_socket: bool,
}

/// Reads the command line of the service of this name.
pub(crate) fn parse(
    service: &str,
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Command, Error> {
    let mut stage = Stage::Root;
    let mut server = None;
    let mut client = None;
    let mut takeover = false;
    let mut reload = false;
    let mut rebind = false;
    let mut successor = None;
    let mut state_file = None;
    let mut period = period("100".into())?;

    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        let typed = match argument {
            Arg::Short('s') => "--server-socket-path".to_owned(),
            Arg::Short('c') => "--client-socket-path".to_owned(),
            Arg::Short('d') => "--timer-delay-ms".to_owned(),
            Arg::Short('h') => "--help".to_owned(),
            Arg::Short('V') => "--version".to_owned(),
            Arg::Long(name) => format!("--{name}"),
            Arg::Short(_) | Arg::Value(_) => return Err(argument.unexpected().into()),
        };
        let name = typed.replace('_', "-");
        match &*name {
            "--server-socket-path" => server = Some(path(&mut parser, &typed)?),
            "--client-socket-path" => client = Some(path(&mut parser, &typed)?),
            "--takeover-existing-socket" => takeover = true,
            "--rebind" => rebind = true,
            "--reload" => reload = true,
            "--state-file" => state_file = Some(path(&mut parser, &typed)?),
            "--successor" => successor = Some(parser.value()?.string()?),
            "--survive-systemd-kill-signal" => stage = Stage::Initrd,
            "--timer-delay-ms" => period = self::period(parser.value()?)?,
            "--help" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            _ => return Err(lexopt::Error::UnexpectedOption(typed).into()),
        }
    }

    let server = if environment.passes_socket && !reload {
        server
    } else {
        let default = || default_socket(service, environment.runtime_directory.as_ref()?);
        Some(
            server
                .or_else(default)
                .ok_or("no socket to serve: use --server-socket-path or set $RUNTIME_DIRECTORY")?,
        )
    };
    if let Some(server) = server.as_ref().filter(|_| reload) {
        return Ok(Command::Reload(server.clone()));
    }
    if rebind {
        check_rebind(stage, takeover, environment)?;
    }
    let predecessor = match (client, takeover) {
        (Some(_), true) => {
            let error = "--client-socket-path cannot be used with --takeover-existing-socket";
            return Err(error.into());
        }
        (Some(path), false)
            if server.as_ref().is_some_and(|server| are_same_path(server, &path)) =>
        {
            let path = path.display();
            return Err(format!(
                "--client-socket-path and --server-socket-path are both '{path}': use \
                 --takeover-existing-socket to take over the server socket"
            )
            .into());
        }
        (Some(path), false) => Predecessor::At(path),
        (None, true) if server.is_none() => {
            return Err("--takeover-existing-socket requires --server-socket-path".into());
        }
        (None, true) => Predecessor::OnServerSocket,
        (None, false) => Predecessor::Nobody,
    };
    Ok(Command::Run(Options { stage, server, predecessor, rebind, state_file, period, successor }))
}

/// The path that is the value of `option`.
fn path(parser: &mut Parser, option: &str) -> Result<PathBuf, Error> {
    let value = parser.value()?;
    // The kernel replaces an empty name with an arbitrary one, which no client knows (unix(7)).
    if value.is_empty() {
        return Err(format!("empty path for option '{option}'").into());
    }
    Ok(value.into())
}

fn period(milliseconds: OsString) -> Result<Period, Error> {
    let period = milliseconds.parse().ok().and_then(Period::from_millis);
    Ok(period.ok_or_else(|| {
        format!(
            "invalid value '{}' for option '--timer-delay-ms': expected 1 to {} milliseconds",
            milliseconds.to_string_lossy(),
            u32::MAX
        )
    })?)
}

/// Checks that `--rebind` can be used.
fn check_rebind(
    stage: Stage,
    takeover: bool,
    environment: &Environment,
) -> Result<(), &'static str> {
    if stage == Stage::Initrd {
        return Err("--rebind cannot be used with --survive-systemd-kill-signal");
    }
    if takeover {
        return Err("--rebind cannot be used with --takeover-existing-socket");
    }
    if !environment.passes_socket {
        return Err("--rebind requires a socket passed by systemd ($LISTEN_FDS)");
    }
    Ok(())
}

/// The socket in the first of the directories that systemd has created for the unit, separated by
/// colons (`RuntimeDirectory=` in systemd.exec(5)).
fn default_socket(service: &str, runtime_directory: &OsString) -> Option<PathBuf> {
    let first = env::split_paths(runtime_directory).next()?;
    (!first.as_os_str().is_empty()).then(|| first.join(format!("{service}.sock")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse_line(line: &str, runtime_directory: Option<&str>) -> Result<Command, Error> {
        let runtime_directory = runtime_directory.map(OsString::from);
        let environment = Environment { runtime_directory, passes_socket: false };
        parse("door", line.split_whitespace().map(OsString::from), &environment)
    }

    fn options(line: &str, runtime_directory: Option<&str>) -> Options {
        match parse_line(line, runtime_directory) {
            Ok(Command::Run(options)) => options,
            other => panic!("{line:?} is {other:?}"),
        }
    }

    #[test]
    fn every_option_is_read_in_each_of_its_spellings() {
        let full = options(
            "--server-socket-path /a --client-socket-path /b --timer-delay-ms 10 \
             --survive-systemd-kill-signal --successor nobody --state-file /c",
            None,
        );
        assert_eq!(full.stage, Stage::Initrd);
        assert_eq!(full.server.as_deref(), Some(Path::new("/a")));
        assert_eq!(full.state_file.as_deref(), Some(Path::new("/c")));
        assert_eq!(full.successor.as_deref(), Some("nobody"));
        assert_eq!(full.predecessor, Predecessor::At("/b".into()));
        assert_eq!(full.period.as_nanos(), 10_000_000);
        for line in [
            "--server_socket_path=/a --client_socket_path=/b --timer_delay_ms=10 \
             --survive_systemd_kill_signal --successor=nobody --state_file=/c",
            "-s /a -c /b -d 10 --survive_systemd-kill-signal --successor nobody --state-file /c",
        ] {
            assert_eq!(options(line, None), full, "{line}");
        }
        let takeover = options("-s /a --takeover_existing_socket", None);
        assert_eq!(takeover.predecessor, Predecessor::OnServerSocket);
        assert_eq!(takeover.stage, Stage::Root);
    }

    #[test]
    fn the_default_socket_is_in_the_first_runtime_directory() {
        for (directories, socket) in [
            ("/run/early-service", "/run/early-service/door.sock"),
            ("/run/one:/run/two", "/run/one/door.sock"),
        ] {
            assert_eq!(options("", Some(directories)).server, Some(socket.into()));
        }
        assert_eq!(options("-s /a", Some("/run/one")).server, Some("/a".into()));
    }

    #[test]
    fn a_passed_socket_makes_a_server_socket_optional() {
        let runtime_directory = Some("/run/one".into());
        let environment = Environment { runtime_directory, passes_socket: true };
        for (line, server) in [("", None), ("-s /a", Some("/a".into()))] {
            let arguments = line.split_whitespace().map(OsString::from);
            match parse("door", arguments, &environment) {
                Ok(Command::Run(options)) => assert_eq!(options.server, server, "{line:?}"),
                other => panic!("{line:?} is {other:?}"),
            }
        }
        let takeover = parse("door", ["--takeover-existing-socket".into()], &environment);
        let error = takeover.expect_err("it has no path").to_string();
        assert_eq!(error, "--takeover-existing-socket requires --server-socket-path");
        for (line, why_not) in [
            ("--rebind --survive-systemd-kill-signal", "--rebind cannot be used with --survive"),
            ("--rebind --takeover-existing-socket -s /a", "--rebind cannot be used with --take"),
        ] {
            let error = parse("door", line.split_whitespace().map(OsString::from), &environment);
            let error = error.expect_err(line).to_string();
            assert!(error.contains(why_not), "{line:?} says {error:?}");
        }
        let rebind = parse("door", ["--rebind".into()], &environment);
        assert!(matches!(rebind, Ok(Command::Run(Options { rebind: true, .. }))));
    }

    #[test]
    fn a_usage_error_names_what_is_wrong() {
        for (line, message) in [
            ("--bogus", "invalid option '--bogus'"),
            ("--bo_gus", "invalid option '--bo_gus'"),
            ("-x", "invalid option '-x'"),
            ("stray", "unexpected argument \"stray\""),
            ("-s", "missing argument for option '-s'"),
            ("-s /a -d 0", "'0' for option '--timer-delay-ms'"),
            ("-s /a -d 4294967296", "'4294967296' for option '--timer-delay-ms'"),
            ("-s /a -d ten", "'ten' for option '--timer-delay-ms'"),
            ("-s /a -c /b --takeover-existing-socket", "cannot be used with --takeover"),
            ("-s /a -c /a", "are both '/a'"),
            ("", "no socket to serve"),
            ("-s /a --rebind", "--rebind requires a socket passed by systemd"),
            ("--server-socket-path=", "empty path for option '--server-socket-path'"),
            ("-s /a --client_socket_path=", "empty path for option '--client_socket_path'"),
            ("-s /a --state-file=", "empty path for option '--state-file'"),
        ] {
            let error = parse_line(line, None).expect_err(line).to_string();
            assert!(error.contains(message), "{line:?} says {error:?}");
        }
        let empty = parse_line("", Some("")).expect_err("an empty list has no directory");
        assert!(empty.to_string().starts_with("no socket to serve"), "{empty}");
    }

    #[test]
    fn a_reload_is_asked_for_on_the_server_socket() {
        for (line, directory, socket) in [
            ("--reload", Some("/run/one"), "/run/one/door.sock"),
            ("-s /a --reload", None, "/a"),
            ("--reload --server_socket_path /a --rebind -c /b", Some("/run/one"), "/a"),
        ] {
            let command = parse_line(line, directory).expect(line);
            assert_eq!(command, Command::Reload(socket.into()), "{line}");
        }
        let error = parse_line("--reload", None).expect_err("no socket").to_string();
        assert!(error.starts_with("no socket to serve"), "{error}");
    }

    #[test]
    fn help_and_version_need_no_other_option() {
        assert_eq!(parse_line("--help", None).expect("help"), Command::Help);
        assert_eq!(parse_line("-V", None).expect("version"), Command::Version);
    }
}
