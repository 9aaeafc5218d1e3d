// SPDX-License-Identifier: Apache-2.0
//! The files of a generated crate.
//!
//! A file of this repository is a template: its name is replaced, and a few edits remove what only
//! this repository has, or add what a device needs. An edit whose place is not found stops the generator, so that a change of a
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
    pub(crate) name: String,
    pub(crate) device: Option<String>,
    pub(crate) drivers: Vec<String>,
    pub(crate) path_of_library: Option<String>,
}

impl Service {
    /// Checks the words of the command line, which become parts of units and scripts.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { name, device, drivers, .. } = self;
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
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_.:-".contains(c);
        let is_device = |path: &String| path.starts_with("/dev/") && path.chars().all(is_plain);
        if let Some(path) = device.as_ref().filter(|path| !is_device(path)) {
            return Err(format!("invalid device '{path}': expected a path in /dev"));
        }
        let is_module = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let is_driver = |name: &String| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_module)
        };
        match drivers.iter().find(|name| !is_driver(name)) {
            Some(driver) => Err(format!("invalid driver '{driver}': expected a kernel module")),
            None => Ok(()),
        }
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
            ("src/main.rs", &self.program()),
            ("tests/handoff.rs", &self.test()),
        ];
        let of_device = [
            ("conf/@NAME@.rules", include_str!("device.rules")),
            ("src/device.rs", include_str!("device.rs")),
        ];
        let ours = [
            self.initrd_unit(),
            ours!("conf/early-service-generator"),
            ours!("conf/early-service-soft-reboot.service"),
            ours!("conf/early-service.dracut.conf"),
            ours!("conf/early-service.preset"),
            self.root_unit(),
            ours!("conf/early-service.socket"),
            ours!("conf/early-service.sysusers"),
            ours!("dracut/50early-service/initrd-backoff.conf"),
            ours!("dracut/50early-service/initrd-service.conf"),
            ours!("dracut/50early-service/initrd-socket.conf"),
            self.dracut_module(),
            ours!("dracut/50early-service/wanted.sh"),
            self.spec(),
            ours!("scripts/create-rpm.sh"),
            ours!("scripts/debian-rpm.macros"),
            ours!("scripts/debian/postinst"),
            ours!("scripts/debian/postrm"),
            ours!("scripts/debian/prerm"),
            ours!("src/no_unwinder.rs"),
        ];
        let of_device = of_device.into_iter().filter(|_| self.device.is_some());
        let own = own.into_iter().chain(of_device);
        let own = own.map(|(path, text)| (path.to_owned(), text.to_owned()));
        own.chain(ours).map(|(path, text)| (self.fill(&path), self.fill(&text))).collect()
    }

    /// The text with the names of the service in place of the placeholders.
    fn fill(&self, text: &str) -> String {
        let drivers = self.drivers.join(" ");
        let device = self.device.as_deref().unwrap_or_default();
        let text = filled(text, "@DEVICE@", device);
        let text = filled(&text, "@DRIVERS@", &drivers);
        let identifier = self.name.replace('-', "_");
        let mut title = self.name.replace('-', " ");
        title[..1].make_ascii_uppercase();
        text.replace("@NAME@", &self.name)
            .replace("@IDENTIFIER@", &identifier)
            .replace("@UPPER@", &identifier.to_uppercase())
            .replace("@TITLE@", &title)
            .replace("@MAN@", &self.name.replace('-', "\\-"))
            .replace("@VERSION@", VERSION)
    }

    fn manifest(&self) -> String {
        let library = |part: &str| match &self.path_of_library {
            Some(path) => format!("{{ path = {:?} }}", format!("{path}{part}")),
            None => format!("{:?}", env!("CARGO_PKG_VERSION")),
        };
        let own = include_str!("package.toml")
            .replace("@RUST@", env!("CARGO_PKG_RUST_VERSION"))
            .replace("@LIBRARY@", &library(""))
            .replace("@TRIAL@", &library("/trial"));
        let (_, ours) = ours!("Cargo.toml");
        let [release, dist, deb] =
            ["[profile.release]", "[profile.dist]", "[package.metadata.deb]"]
                .map(|header| section(&ours, header));
        let deb = debian(deb);
        let deb = if self.device.is_some() { edited(deb, &[("assets = [\n", RULES)]) } else { deb };
        format!("{own}\n{release}\n{dist}\n{deb}")
    }

    /// The program, with its device.
    fn program(&self) -> String {
        let text = include_str!("program.rs").to_owned();
        if self.device.is_none() {
            return text;
        }
        edited(
            text,
            &[
                ("\nmod no_unwinder;\n", "\nmod device;\nmod no_unwinder;\n"),
                ("on.\";\n}\n", "on.\";\n    const DESCRIPTORS: &'static str = \"device\";\n}\n"),
                ("main!(Count);", "main!(Count, with: device::Open);"),
            ],
        )
    }

    /// The test, with another file in the place of the device.
    fn test(&self) -> String {
        let text = include_str!("test.rs").to_owned();
        if self.device.is_none() {
            return text;
        }
        let file = "        command.env(\"@UPPER@_DEVICE\", \"/dev/null\");\n        command\n";
        edited(text, &[("        command\n", file)])
    }

    fn initrd_unit(&self) -> (String, String) {
        const LOAD: &str = "[Service]
# Without the restrictions below. The dracut module installs the program and the drivers.
ExecStartPre=-+/usr/sbin/modprobe --all --quiet @DRIVERS@
";
        let (path, text) = ours!("conf/early-service-initrd.service");
        let text = self.with_drivers(text, ("[Service]\n", LOAD));
        if self.device.is_none() {
            return (path, text);
        }
        let waits = (
            "# The service needs no devices, no file systems and no journal, so it waits for none of \
             them.\n",
            "# The service waits for no file system and no journal. The program opens the device as \
             soon as it\n# exists, and answers clients before.\n",
        );
        (path, edited(text, &[waits, STORE]))
    }

    fn root_unit(&self) -> (String, String) {
        // ExecStartPre= would be too late for DeviceAllow=.
        let load: String =
            self.drivers.iter().map(|driver| format!(" modprobe@{driver}.service")).collect();
        let load = format!(
            "
# Loads the drivers. PID 1 looks up the device of DeviceAllow= when it starts this unit.
Wants={load}
After={load}

[Service]
",
            load = load.trim_start()
        );
        let (path, text) = ours!("conf/early-service.service");
        let text = self.with_drivers(text, ("\n[Service]\n", &load));
        if self.device.is_none() {
            return (path, text);
        }
        let allowed = (
            "PrivateDevices=yes\n",
            "# This device only. The initrd stage hands it over open; if it cannot, the root stage \
             opens it.\n\
             PrivateDevices=no\n\
             DevicePolicy=closed\n\
             DeviceAllow=@DEVICE@ rw\n",
        );
        (path, edited(text, &[allowed, STORE]))
    }

    /// The text, with an edit that adds the drivers, if there are any.
    fn with_drivers(&self, text: String, edit: (&str, &str)) -> String {
        if self.drivers.is_empty() { text } else { edited(text, &[edit]) }
    }

    fn dracut_module(&self) -> (String, String) {
        const INSTALL: &str =
            "# The drivers of the device, also those that this machine does not use.
installkernel() {
    hostonly='' instmods @DRIVERS@
}

install() {
";
        let (path, text) = ours!("dracut/50early-service/module-setup.sh");
        (path, self.with_drivers(text, ("install() {\n", INSTALL)))
    }

    fn spec(&self) -> (String, String) {
        let (path, text) = spec();
        if self.device.is_none() {
            return (path, text);
        }
        let edits = [
            (
                "install -D -p -m 0644 conf/@NAME@.dracut.conf",
                "install -D -p -m 0644 conf/@NAME@.rules \\\n    \
                 %{buildroot}%{_prefix}/lib/udev/rules.d/60-@NAME@.rules\n\
                 install -D -p -m 0644 conf/@NAME@.dracut.conf",
            ),
            (
                "\n%{dracutdir}/dracut.conf.d",
                "\n%{_prefix}/lib/udev/rules.d/60-@NAME@.rules\n%{dracutdir}/dracut.conf.d",
            ),
        ];
        (path, edited(text, &edits))
    }
}

/// The rule of udev in the Debian package.
const RULES: &str = r#"assets = [
    ["conf/@NAME@.rules", "usr/lib/udev/rules.d/60-@NAME@.rules", "644"],
"#;

/// The end of the section `[Service]`, with the setting that keeps the device in PID 1.
const STORE: (&str, &str) = (
    "\n[Install]\n",
    "\n# PID 1 keeps the open device while the process is restarted.\n\
     FileDescriptorStoreMax=1\n\n[Install]\n",
);

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

/// The text with a value in place of a placeholder. A paragraph with a placeholder without a value is
/// left out.
fn filled(text: &str, placeholder: &str, value: &str) -> String {
    if !value.is_empty() || !text.contains(placeholder) {
        return text.replace(placeholder, value);
    }
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.contains(placeholder));
    paragraphs.collect::<Vec<_>>().join("\n\n").trim_end().to_owned() + "\n"
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
