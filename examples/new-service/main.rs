// SPDX-License-Identifier: Apache-2.0
//! Generator of a service of your own: a whole crate with units, packages and a test.
//!
//! ```console
//! $ cargo run --example new-service -- pulse --library .
//! $ cargo run --example new-service -- feeder --device /dev/watchdog --driver i6300esb
//! ```
//!
//! The units, the dracut module, the maintainer scripts and the spec file are those of this
//! repository with another name; [`files`] has the few differences. What this repository does not
//! have is beside this file: the program, its test, and the files for initramfs-tools.
#![allow(clippy::print_stdout, reason = "the generator names the directory that it has made")]

mod files;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use crate::files::Service;

const USAGE: &str = "\
Usage: cargo run --example new-service -- NAME [OPTION]...

Writes the crate of a service of your own. NAME is 1 to 31 of the characters a-z, 0-9 and -, the
first one a letter.

Options:
  --device PATH     the service owns this device, such as /dev/watchdog
  --driver MODULE   kernel module that is loaded before the service starts; may be repeated
  --directory DIR   new directory for the crate; by default NAME
  --library PATH    directory of the library; by default its release from the registry";

fn main() -> Result<(), Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let (mut name, mut device, mut drivers) = (None, None, Vec::new());
    let (mut directory, mut library) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(value) if name.is_none() => name = Some(value.string()?),
            Arg::Long("device") if device.is_some() => {
                return Err("one --device only; docs/custom-service.md adds a second one".into());
            }
            Arg::Long("device") => device = Some(parser.value()?.string()?),
            Arg::Long("driver") => drivers.push(parser.value()?.string()?),
            Arg::Long("directory") => directory = Some(PathBuf::from(parser.value()?)),
            Arg::Long("library") => library = Some(absolute(parser.value()?)?),
            Arg::Long("help") | Arg::Short('h') => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let name = name.ok_or(USAGE)?;
    let directory = directory.unwrap_or_else(|| PathBuf::from(&name));
    let service = Service { name, device, drivers, path_of_library: library };
    service.check()?;

    let explain = |path: &PathBuf, error| format!("cannot write {}: {error}", path.display());
    fs::create_dir(&directory).map_err(|error| explain(&directory, error))?;
    for (path, contents) in service.files() {
        let path = directory.join(path);
        let parent = path.parent().ok_or("a file has a directory")?;
        fs::create_dir_all(parent).map_err(|error| explain(&path, error))?;
        fs::write(&path, &contents).map_err(|error| explain(&path, error))?;
        if contents.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    println!("{}", directory.display());
    Ok(())
}

/// The path of an existing directory, from the root, as a Cargo.toml in another directory needs it.
fn absolute(directory: OsString) -> Result<String, String> {
    let explain = |error| format!("cannot find {}: {error}", directory.to_string_lossy());
    let path = fs::canonicalize(&directory).map_err(explain)?;
    path.into_os_string().into_string().map_err(|path| format!("{path:?} is no text"))
}
