// SPDX-License-Identifier: Apache-2.0
//! The documentation: its commands do what the pages show, its links and paths exist.
//!
//! | file | checks |
//! | --- | --- |
//! | [`commands`] | every command of a `console` block |
//! | [`links`] | links, paths, and the lists of pages |

mod commands;
mod links;

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All pages, relative to the root.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(PathBuf::from).into();
    let files = fs::read_dir(Path::new(ROOT).join("docs")).expect("the directory docs");
    let names = files.map(|file| file.expect("a file").file_name());
    pages.extend(names.map(|name| Path::new("docs").join(name)).filter(|page| is_page(page)));
    pages.push("SECURITY.md".into());
    pages.retain(|page| Path::new(ROOT).join(page).exists());
    pages.sort();
    pages
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let text = fs::read_to_string(Path::new(ROOT).join(path));
    text.unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
