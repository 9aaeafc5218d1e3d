// SPDX-License-Identifier: Apache-2.0
//! Upkeep of a listener's name, while the server serves.
//!
//! Puts the socket in its place when serving begins, checks that clients find it there, and binds a
//! fresh one if its file is gone.

use std::fs;
use std::mem;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::net::listen;
use rustix::net::sockopt::socket_peercred;
use rustix::process::getpid;

use crate::platform::files::{self, identity};
use crate::platform::socket::{Backlog, backlog, connect};
use crate::server::listener::bind::{Error, bind};
use crate::server::listener::guard::Guard;
use crate::server::listener::names::saved_name;
use crate::server::listener::{Listener, Origin};

/// The result of a check of a listener's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NameCheck {
    /// Clients find the listener by name, or it has none.
    Valid,
    /// The name was gone; a fresh socket is bound to it.
    Rebound,
    /// Clients do not find the listener by name. Contains the line to log, if it differs from the
    /// last.
    Lost(Option<String>),
}

impl Listener {
    /// Puts the socket in its place: from now on clients find it by its name, and see the
    /// credentials of this process.
    pub(crate) fn settle(&mut self) {
        if self.origin == Origin::PassedToRebind {
            self.origin = Origin::Rebound;
            if let Err(error) = self.rebind() {
                log::error!("{error}; serving the socket that systemd passed");
                self.origin = Origin::Passed;
            }
        }
        match self.origin {
            Origin::Bound | Origin::PassedToRebind => {}
            Origin::BoundBeside => match fs::rename(&self.name, &self.path) {
                Ok(()) => {
                    self.origin = Origin::Bound;
                    self.path.clone_into(&mut self.name);
                }
                Err(error) => log::error!("cannot take over {}: {error}", self.path.display()),
            },
            // SO_PEERCRED shows the last process that called listen(2): PID 1 or the predecessor.
            // The kernel reduces the backlog to net.core.somaxconn.
            Origin::Passed | Origin::Rebound | Origin::Adopted | Origin::Inherited => {
                if let Err(error) = listen(&self.socket, i32::MAX) {
                    log::warn!("cannot renew the credentials of {}: {error}", self.path.display());
                }
                let is_socket = |file: fs::Metadata| file.file_type().is_socket();
                if self.file.is_none() && fs::symlink_metadata(&self.name).is_ok_and(is_socket) {
                    self.file = identity(&self.name);
                }
            }
        }
        self.owns_file |= matches!(self.origin, Origin::Adopted | Origin::Rebound);
    }

    /// Exchanges the passed socket for a fresh one in one step, so that clients always find a
    /// socket.
    ///
    /// The two sockets exchange their names, so that the passed one can be renamed back at the end.
    /// PID 1 listens on it, and clients wait there.
    ///
    /// Takes no guard, so that it never waits; other processes do not touch `PATH.passed` while
    /// this socket is live.
    fn rebind(&mut self) -> Result<(), Error> {
        let saved = saved_name(&self.path);
        let fresh = bind(&saved)?;
        let exchanged = fs::symlink_metadata(&self.path)
            .and_then(|old| fs::set_permissions(&saved, old.permissions()))
            .and_then(|()| Ok(renameat_with(CWD, &saved, CWD, &self.path, RenameFlags::EXCHANGE)?));
        if let Err(error) = exchanged {
            files::remove(&saved);
            return Err(Error::Rebind(self.path.clone(), error));
        }
        self.passed = Some(mem::replace(&mut self.socket, fresh));
        self.file = identity(&self.path);
        self.owns_file = true;
        Ok(())
    }

    /// Checks that clients find this listener by its name. If the name is gone, binds a fresh
    /// socket to it, and keeps the old one until its backlog is empty.
    ///
    /// `is_alone` means that no predecessor has a copy. Then also connects to a passed socket,
    /// because PID 1 does not notice if another socket has its name.
    pub(crate) fn keep_name(&mut self, is_alone: bool) -> NameCheck {
        self.nameless = self.nameless.take().filter(|socket| backlog(socket) == Backlog::Waiting);
        let may_check = match self.origin {
            Origin::Bound | Origin::Adopted | Origin::Passed | Origin::Rebound => true,
            Origin::BoundBeside | Origin::PassedToRebind | Origin::Inherited => false,
        };
        if !may_check || self.name.as_os_str().is_empty() {
            return NameCheck::Valid;
        }
        let is_shut = backlog(&self.socket) == Backlog::Shut;
        let there = fs::symlink_metadata(&self.name).ok();
        match &there {
            Some(file) if self.file == Some((file.dev(), file.ino())) && !is_shut => {
                let must_connect = is_alone && self.origin == Origin::Passed;
                if !must_connect || self.is_reachable() {
                    self.access = Some((file.uid(), file.gid(), file.mode() & 0o7777));
                    self.lost = None;
                    return NameCheck::Valid;
                }
            }
            // A process that survived the switch of root and has not followed it yet sees no files.
            None if !Path::new("/proc/self").exists() => return NameCheck::Valid,
            None if !self.name.parent().is_some_and(Path::exists) => {
                // The directory is missing for a moment while mounts are moved, so only a second
                // failure in a row is reported.
                if !mem::replace(&mut self.was_without_directory, true) {
                    return NameCheck::Valid;
                }
            }
            Some(_) | None => {}
        }
        self.was_without_directory = false;
        match self.bind_again(is_shut) {
            Ok(()) => {
                self.lost = None;
                NameCheck::Rebound
            }
            Err(error) => {
                let path = self.path.display();
                let line = format!("the name of the socket {path} is gone: {error}");
                let is_news = self.lost.as_ref() != Some(&line);
                self.lost = Some(line.clone());
                NameCheck::Lost(is_news.then_some(line))
            }
        }
    }

    /// Whether the name leads to a socket on which this process was the last to call listen(2).
    fn is_reachable(&self) -> bool {
        match connect(&self.name) {
            Ok(stream) => socket_peercred(&stream).is_ok_and(|peer| peer.pid == getpid()),
            Err(error) => !matches!(error, Errno::CONNREFUSED | Errno::NOENT),
        }
    }

    /// Binds a fresh socket to the name.
    fn bind_again(&mut self, is_shut: bool) -> Result<(), Error> {
        // Does not wait, because another process that holds the guard is about to bind the name.
        let _guard = Guard::try_take(&self.name);
        let fresh = bind(&self.name)?;
        if let Some((owner, group, mode)) = self.access {
            // A process that may not change the owner may still set a group that it belongs to.
            let _ = lchown(&self.name, Some(owner), Some(group))
                .or_else(|_| lchown(&self.name, None, Some(group)));
            let _ = fs::set_permissions(&self.name, fs::Permissions::from_mode(mode));
        }
        let old = mem::replace(&mut self.socket, fresh);
        // No client can be accepted from a socket that was shut down.
        self.nameless = (!is_shut).then_some(old);
        self.file = identity(&self.name);
        self.owns_file = true;
        if self.origin == Origin::Passed {
            self.origin = Origin::Bound;
        }
        Ok(())
    }

    /// Whether clients do not find it by name.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}
