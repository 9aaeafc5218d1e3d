// SPDX-License-Identifier: Apache-2.0
//! Links, paths in code spans, and the lists of pages.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use crate::{ROOT, pages, read};

/// The anchors of a page, as GitHub and mdBook generate them from its headings.
fn anchors(page: &str) -> HashSet<String> {
    let mut is_code = false;
    let headings = page.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let anchor = |heading: &str| -> String {
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The targets of the links and pictures of a page, except those in code.
fn links(page: &str) -> Vec<String> {
    let text: String = page.split("```").step_by(2).collect();
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(&page);
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let directory = page.parent().expect("a page has a directory");
            let target = if file.is_empty() { page.clone() } else { directory.join(file) };
            // The book contains only the files in docs.
            let leaves_book = page.starts_with("docs") && file.contains('/');
            let exists = Path::new(ROOT).join(&target).exists();
            let has_anchor = || anchor.is_empty() || anchors(&read(&target)).contains(anchor);
            if leaves_book || !exists || !has_anchor() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The first directories of paths in code spans.
const DIRECTORIES: [&str; 11] = [
    "benches/",
    "conf/",
    "docs/",
    "dracut/",
    "examples/",
    "fuzz/",
    "machine/",
    "scripts/",
    "src/",
    "tests/",
    ".ci/",
];

#[test]
fn every_path_in_a_code_span_exists() {
    let mut broken = Vec::new();
    for page in pages() {
        let text: String = read(&page).split("```").step_by(2).collect();
        for span in text.split('`').skip(1).step_by(2) {
            let is_path = DIRECTORIES.iter().any(|directory| span.starts_with(directory));
            let is_pattern = span.contains([' ', '*', '…', '<']);
            if is_path && !is_pattern && !Path::new(ROOT).join(span).exists() {
                broken.push(format!("{}: {span}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_book_and_the_readme_list_every_page() {
    let listed = |page: &str| links(&read(page)).into_iter().collect::<BTreeSet<_>>();
    let (book, readme) = (listed("docs/SUMMARY.md"), listed("README.md"));
    for page in pages().iter().filter_map(|page| page.strip_prefix("docs").ok()) {
        let name = page.to_str().expect("text");
        if name != "SUMMARY.md" {
            assert!(book.contains(name), "docs/SUMMARY.md does not list {name}");
            assert!(readme.contains(&format!("docs/{name}")), "README.md does not list {name}");
        }
    }
}

#[test]
fn the_readme_has_at_most_240_lines() {
    assert!(read("README.md").lines().count() <= 240);
}
