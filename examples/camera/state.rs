// SPDX-License-Identifier: Apache-2.0
//! State of the camera, with its commands and replies.

use std::fmt::{self, Display, Formatter};
use std::str;

use early_service::{Fields, MissingField, State, number};

/// The state that one process hands over to the next.
///
/// Its text form is the reply to [`HAND_OVER`](State::HAND_OVER): `137 reverse rear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Camera {
    /// The number of the next frame.
    pub(crate) frame: u64,
    pub(crate) gear: Gear,
    pub(crate) overlay: Overlay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) enum Gear {
    #[default]
    Drive,
    Reverse,
}

/// The text over the picture: 1 to 48 printable ASCII characters, without spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Overlay {
    /// The text, filled up with spaces.
    bytes: [u8; Self::LENGTH],
}

/// A command of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Command {
    /// `get_frame`: the number of the next frame.
    #[default]
    Frame,
    /// `set_frame N`: gives the next frame this number.
    SetFrame(u64),
    /// `set_gear reverse` or `set_gear drive`.
    SetGear(Gear),
    /// `set_overlay TEXT`.
    SetOverlay(Overlay),
}

/// The reply to a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Frame(u64),
    PreviousFrame(u64),
    PreviousGear(Gear),
    PreviousOverlay(Overlay),
}

const FRAME_EXPECTED: &str = "set_frame N with N from 0 to 18446744073709551615";
const GEAR_EXPECTED: &str = "set_gear reverse or set_gear drive";
const OVERLAY_EXPECTED: &str = "set_overlay TEXT of 1 to 48 characters";

impl State for Camera {
    type Command = Command;
    type Reply = Reply;

    const NAME: &'static str = "camera";
    const HAND_OVER: &'static str = "get_camera_and_terminate";
    const EXPECTED: &'static str = "get_frame, set_frame N, set_gear, set_overlay";
    const MAX_EXPECTED: usize = FRAME_EXPECTED.len();
    const MAX_FIELDS: usize =
        "frame=18446744073709551615 gear=reverse overlay=".len() + Overlay::LENGTH;
    const MAX_REPLY: usize = "previous overlay ".len() + Overlay::LENGTH;

    fn parse(reply: &[u8]) -> Option<Self> {
        let mut words = reply.split(|byte| *byte == b' ');
        let frame = number(words.next()?)?;
        let (gear, overlay) = (Gear::parse(words.next()?)?, Overlay::parse(words.next()?)?);
        words.next().is_none().then_some(Self { frame, gear, overlay })
    }

    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        Ok(Self {
            frame: fields.number("frame")?,
            gear: fields.get("gear").and_then(Gear::parse).ok_or(MissingField("gear"))?,
            overlay: fields
                .get("overlay")
                .and_then(Overlay::parse)
                .ok_or(MissingField("overlay"))?,
        })
    }

    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "frame={} gear={} overlay={}", self.frame, self.gear, self.overlay)
    }

    fn command(line: &[u8]) -> Result<Command, &'static str> {
        if line == b"get_frame" {
            return Ok(Command::Frame);
        }
        if let Some(digits) = line.strip_prefix(b"set_frame ") {
            return number(digits).map(Command::SetFrame).ok_or(FRAME_EXPECTED);
        }
        if let Some(gear) = line.strip_prefix(b"set_gear ") {
            return Gear::parse(gear).map(Command::SetGear).ok_or(GEAR_EXPECTED);
        }
        match line.strip_prefix(b"set_overlay ") {
            Some(text) => Overlay::parse(text).map(Command::SetOverlay).ok_or(OVERLAY_EXPECTED),
            None => Err(Self::EXPECTED),
        }
    }

    fn is_change(command: &Command) -> bool {
        *command != Command::Frame
    }

    fn apply(&mut self, command: Command) -> Reply {
        let previous = *self;
        match command {
            Command::Frame => return Reply::Frame(self.frame),
            Command::SetFrame(number) => self.frame = number,
            Command::SetGear(gear) => self.gear = gear,
            Command::SetOverlay(overlay) => self.overlay = overlay,
        }
        match command {
            Command::Frame | Command::SetFrame(_) => Reply::PreviousFrame(previous.frame),
            Command::SetGear(_) => Reply::PreviousGear(previous.gear),
            Command::SetOverlay(_) => Reply::PreviousOverlay(previous.overlay),
        }
    }

    fn tick(&mut self) {
        self.frame = self.frame.wrapping_add(1);
    }
}

impl Gear {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"drive" => Some(Self::Drive),
            b"reverse" => Some(Self::Reverse),
            _ => None,
        }
    }
}

impl Overlay {
    const LENGTH: usize = 48;

    fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [b' '; Self::LENGTH];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
        is_plain.then_some(Self { bytes })
    }
}

impl Default for Overlay {
    fn default() -> Self {
        let mut bytes = [b' '; Self::LENGTH];
        bytes[..4].copy_from_slice(b"rear");
        Self { bytes }
    }
}

impl Display for Camera {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.frame, self.gear, self.overlay)
    }
}

impl Display for Gear {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drive => "drive",
            Self::Reverse => "reverse",
        })
    }
}

impl Display for Overlay {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(self.bytes.trim_ascii_end()).unwrap_or_default())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame => write!(f, "get_frame"),
            Self::SetFrame(number) => write!(f, "set_frame {number}"),
            Self::SetGear(gear) => write!(f, "set_gear {gear}"),
            Self::SetOverlay(overlay) => write!(f, "set_overlay {overlay}"),
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(number) => write!(f, "{number}"),
            Self::PreviousFrame(number) => write!(f, "previous frame {number}"),
            Self::PreviousGear(gear) => write!(f, "previous gear {gear}"),
            Self::PreviousOverlay(overlay) => write!(f, "previous overlay {overlay}"),
        }
    }
}
