// SPDX-License-Identifier: Apache-2.0
//! The files of a generated crate.
//!
//! A file of this repository is a template: its name is replaced, and a few edits remove what only
//! this repository has. An edit whose place is not found stops the generator, so that a change of a
//! template cannot leave an edit behind unnoticed.

/// The release of a generated crate.
const VERSION: &str = "0.1.0";

/// A file of this repository, with placeholders for the name.
macro_rules! ours {
    ($path:literal) => {
        (with_placeholders($path), with_placeholders(include_str!(concat!("../../", $path))))
    };
}

/// The service that the user has ordered.
pub(crate) struct Service {
    name: String,
    library: Option<String>,
}

impl Service {
    /// Checks the words of the command line, which become parts of units and scripts.
    pub(crate) fn new(name: String, library: Option<String>) -> Result<Self, String> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let begins_with_letter = name.starts_with(|c: char| c.is_ascii_lowercase());
        // The name of an account has at most 31 bytes.
        if !begins_with_letter || !name.chars().all(is_allowed) || name.len() > 31 {
            return Err(format!(
                "invalid name '{name}': expected 1 to 31 of the characters a-z, 0-9 and -, the \
                 first one a letter"
            ));
        }
        if name.starts_with("early-service") || name.ends_with("-initrd") {
            return Err(format!("invalid name '{name}': another service may have its files"));
        }
        Ok(Self { name, library })
    }

    /// The path and the contents of every file.
    pub(crate) fn files(&self) -> Vec<(String, String)> {
        let own = [
            (".gitignore", "/target\n"),
            ("Cargo.toml", &self.manifest()),
            ("README.md", include_str!("README.md")),
            ("conf/@NAME@.8", &include_str!("manual.8").replace("@NAME@", "@MAN@")),
            ("initramfs-tools/hook", include_str!("initramfs-hook")),
            ("initramfs-tools/script", include_str!("initramfs-script")),
            ("src/main.rs", include_str!("program.rs")),
            ("tests/handoff.rs", include_str!("test.rs")),
        ];
        let ours = [
            ours!("conf/early-service-initrd.service"),
            ours!("conf/early-service.dracut.conf"),
            ours!("conf/early-service.preset"),
            ours!("conf/early-service.service"),
            ours!("conf/early-service.socket"),
            ours!("conf/early-service.sysusers"),
            ours!("dracut/50early-service/initrd-backoff.conf"),
            ours!("dracut/50early-service/initrd-service.conf"),
            ours!("dracut/50early-service/initrd-socket.conf"),
            ours!("dracut/50early-service/module-setup.sh"),
            ours!("dracut/50early-service/wanted.sh"),
            spec(),
            ours!("scripts/create-rpm.sh"),
            ours!("scripts/debian-rpm.macros"),
            ours!("scripts/debian/postinst"),
            ours!("scripts/debian/postrm"),
            ours!("scripts/debian/prerm"),
        ];
        let own = own.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned()));
        own.chain(ours).map(|(path, text)| (self.fill(&path), self.fill(&text))).collect()
    }

    /// The text with the names of the service in place of the placeholders.
    fn fill(&self, text: &str) -> String {
        let identifier = self.name.replace('-', "_");
        let mut title = self.name.replace('-', " ");
        title[..1].make_ascii_uppercase();
        text.replace("@NAME@", &self.name)
            .replace("@IDENTIFIER@", &identifier)
            .replace("@TITLE@", &title)
            .replace("@MAN@", &self.name.replace('-', "\\-"))
            .replace("@VERSION@", VERSION)
    }

    fn manifest(&self) -> String {
        let library = match &self.library {
            Some(path) => format!("{{ path = {path:?} }}"),
            None => format!("{:?}", env!("CARGO_PKG_VERSION")),
        };
        let own = include_str!("package.toml")
            .replace("@RUST@", env!("CARGO_PKG_RUST_VERSION"))
            .replace("@LIBRARY@", &library);
        let (_, ours) = ours!("Cargo.toml");
        let [release, dist, deb] =
            ["[profile.release]", "[profile.dist]", "[package.metadata.deb]"]
                .map(|header| section(&ours, header));
        format!("{own}\n{release}\n{dist}\n{}", debian(deb))
    }
}

/// The section for cargo-deb: without the documentation and the catalog of this repository, with
/// the files for initramfs-tools.
fn debian(section: String) -> String {
    const INITRAMFS_TOOLS: &str = r#"assets = [
    ["initramfs-tools/hook", "usr/share/initramfs-tools/hooks/@NAME@", "755"],
    ["initramfs-tools/script", "usr/share/initramfs-tools/scripts/init-top/@NAME@", "755"],
"#;
    edited(
        section,
        &[
            ("    [\"docs/*.md\", \"usr/share/doc/@NAME@/docs/\", \"644\"],\n", ""),
            ("    [\"docs/*.svg\", \"usr/share/doc/@NAME@/docs/\", \"644\"],\n", ""),
            ("    # A dpkg trigger of systemd compiles the catalog.\n", ""),
            ("    [\"conf/@NAME@.catalog\", \"usr/lib/systemd/catalog/\", \"644\"],\n", ""),
            (
                "# Without dracut there is no initrd with the initrd stage, and the service would \
                 start late.\n",
                "# One of the last two builds an initrd with the initrd stage.\n",
            ),
            ("dracut\"\n", "dracut | initramfs-tools\"\n"),
            ("assets = [\n", INITRAMFS_TOOLS),
        ],
    )
}

/// The spec file, without the documentation, the catalog and the history of this repository.
fn spec() -> (String, String) {
    let (path, text) = ours!("early-service.spec");
    let (text, _) = text.split_once("\n%changelog\n").expect("the spec file ends with its history");
    let version = format!("Version:        {}\n", env!("CARGO_PKG_VERSION"));
    let edits = [
        (&*version, "Version:        @VERSION@\n"),
        ("URL:            https://crates.io/crates/@NAME@\n", ""),
        (
            "install -D -p -m 0644 conf/@NAME@.catalog \\\n    \
             %{buildroot}%{_journalcatalogdir}/@NAME@.catalog\n",
            "",
        ),
        ("\n%{_journalcatalogdir}/@NAME@.catalog\n", "\n"),
        ("# This macro is empty if a file trigger of systemd compiles the catalog.\n", ""),
        ("%{?journal_catalog_update}\n", ""),
        ("%license LICENSE LICENSE.dependencies\n", "%license LICENSE.dependencies\n"),
        ("%doc README.md docs\n", "%doc README.md\n"),
    ];
    (path, edited(text.to_owned(), &edits))
}

/// A text of this repository, with placeholders for the name in its three forms.
fn with_placeholders(text: &str) -> String {
    text.replace("early-service", "@NAME@")
        .replace("early_service", "@IDENTIFIER@")
        .replace("Early service", "@TITLE@")
}

/// A section of a TOML file, without the comment of the section after it.
fn section(toml: &str, header: &str) -> String {
    let begin = toml.find(&format!("\n{header}\n")).expect("the section exists") + 1;
    let text = &toml[begin..];
    let end = text.find("\n[").unwrap_or(text.len());
    let mut lines: Vec<_> = text[..end].lines().collect();
    while lines.last().is_some_and(|line| line.is_empty() || line.starts_with('#')) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

/// The text with each part replaced.
///
/// # Panics
///
/// If a part does not occur exactly once, because its template has changed.
fn edited(text: String, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text, |text, (part, replacement)| {
        assert_eq!(text.matches(part).count(), 1, "{part:?} is not in the template once");
        text.replacen(part, replacement, 1)
    })
}
