// SPDX-License-Identifier: Apache-2.0
//! Timeline: one boot as a picture, from PID 1 to power-off. `scripts/boot --timeline` draws it.
//!
//! Three panels have one time axis: PID 1 and the two instances, the counter, and the delay of each
//! tick. All data is from the boot's journal. The background is drawn, so the picture suits light
//! and dark pages.

use crate::guest::Guest;
use crate::machine::Boot;
use crate::story::{FIRST, ROOT, of_stage, of_unit};
use crate::ticks::{PERIOD, Tick, ticks};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingArea, DrawingAreaErrorKind,
    IntoDrawingArea, IntoFont, LabelAreaPosition, PathElement, RGBColor, Rectangle, SVGBackend,
    TRANSPARENT, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::time::Duration;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Pixels: the width of a README, and the height of the panels and a head of two lines.
const SIZE: (i32, i32) = (900, 700);
/// The position of the time axis.
const PANELS_END: i32 = SIZE.1 - 48;
const LANES_TOP: i32 = 64;
const TARGETS_AT: i32 = LANES_TOP + 78;
const BARS_TOP: i32 = TARGETS_AT + 14;
const BAR: i32 = 20;
const LANES_END: i32 = BARS_TOP + 80;
const COUNTER_END: i32 = LANES_END + 250;
/// The left margin of the panels, for their names and numbers.
const LEFT: i32 = 112;
const RIGHT: i32 = 22;
/// Number of rows for the names of targets.
const FLAGS: usize = 5;

const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(36, 41, 47);
const FAINT: RGBColor = RGBColor(101, 109, 118);
const GRID: RGBColor = RGBColor(234, 238, 242);
/// Readers who cannot see red and green can tell these two apart, also on paper.
const INITRD: RGBColor = RGBColor(207, 92, 0);
const ROOT_FS: RGBColor = RGBColor(9, 88, 190);
const SWITCH: RGBColor = RGBColor(164, 14, 38);
const HANDOFF: RGBColor = RGBColor(110, 64, 201);

/// The well-known targets of a boot.
const TARGETS: [&str; 7] = [
    "sysinit",
    "basic",
    "initrd-root-fs",
    "initrd",
    "initrd-switch-root",
    "local-fs",
    "multi-user",
];

/// The content of the picture, in seconds since the start of PID 1.
struct Story {
    systemd: String,
    kernel: String,
    ticks: Vec<(f64, Tick)>,
    /// Name, time, and whether it was reached in the initrd.
    targets: Vec<(String, f64, bool)>,
    socket: (f64, f64),
    first: Instance,
    root: Instance,
    switch: f64,
    /// The start and the end of PID 1's stop of all processes at the switch.
    stopped: (f64, f64),
    /// Times when a client with the first stage's priority could not run for long, for any reason.
    standstills: Vec<(f64, f64)>,
    /// From the predecessor's freeze until the successor serves.
    handoff: (f64, f64),
    end: f64,
}

/// One of our processes.
struct Instance {
    /// When PID 1 began its start.
    starting: f64,
    serving: f64,
    /// When PID 1 noticed its end.
    gone: f64,
}

impl Story {
    /// An error names the missing event.
    fn of(boot: &Boot) -> Result<Self, String> {
        let records = || boot.journal.iter().filter(|record| record.identifier() == "systemd");
        let said = |words: &str| {
            let found = records().find(|record| record.message().starts_with(words));
            found.ok_or_else(|| format!("PID 1 does not say {words:?}"))
        };
        let start = said("systemd ")?;
        let since = |at: Duration| at.as_secs_f64() - start.made().as_secs_f64();
        let told = |stage: &str, words: &str| {
            let record = of_stage(boot, stage, words).first().copied();
            let record = record.ok_or_else(|| format!("{stage} does not say {words:?}"))?;
            Ok::<_, String>(since(record.made()))
        };
        let gone = |unit: &str| {
            let last = of_unit(boot, unit, "Deactivated successfully").last().copied();
            let last = last.ok_or_else(|| format!("PID 1 does not say that {unit} has ended"))?;
            Ok::<_, String>(since(last.made()))
        };
        let seconds = |words: &str| said(words).map(|record| since(record.made()));
        let switch = seconds("Switching root.")?;
        let kernel =
            boot.journal.iter().find_map(|record| record.message().strip_prefix("Linux version "));
        let word = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
        let targets = records().filter_map(|record| {
            let (name, _) =
                record.message().strip_prefix("Reached target ")?.split_once(".target")?;
            let at = since(record.made());
            TARGETS.contains(&name).then(|| (name.to_owned(), at, at < switch))
        });
        let socket = seconds("Listening on early-service.socket")?;
        let first = Instance {
            starting: seconds(&format!("Starting {FIRST}"))?,
            serving: told("early-service-initrd", "booting => serving")?,
            gone: gone(FIRST)?,
        };
        let root = Instance {
            starting: seconds(&format!("Starting {ROOT}"))?,
            serving: told("early-service", "adopting => serving")?,
            gone: gone(ROOT)?,
        };
        let standstills = standstills(boot, since);
        // PID 1 stops all other processes before anything else that could delay them.
        let stopped = standstills.iter().find(|(from, _)| (switch..switch + 0.5).contains(from));
        let story = Self {
            systemd: word(start.message().trim_start_matches("systemd ")),
            kernel: word(kernel.ok_or("the kernel does not say its version")?),
            ticks: ticks(boot).into_iter().map(|tick| (since(tick.actual), tick)).collect(),
            targets: targets.collect(),
            socket: (socket, seconds("Closed early-service.socket")?),
            stopped: *stopped.ok_or("nobody was stopped at the switch of root")?,
            standstills: standstills.clone(),
            handoff: (told("early-service-initrd", "serving => draining")?, root.serving),
            end: boot.journal.iter().map(|record| since(record.made())).fold(0.0, f64::max),
            first,
            root,
            switch,
        };
        if story.ticks.is_empty() { Err("no tick".to_owned()) } else { Ok(story) }
    }

    /// The delay of each tick, in milliseconds; positive if it is late.
    fn off(&self) -> impl Iterator<Item = (f64, f64, &Tick)> {
        self.ticks.iter().map(|(at, tick)| {
            let off = tick.actual.as_secs_f64() - tick.deadline.as_secs_f64();
            (*at, off * 1000.0, tick)
        })
    }
}

/// Times when the watching client could not run; it reports them as soon as it runs again.
fn standstills(boot: &Boot, since: impl Fn(Duration) -> f64) -> Vec<(f64, f64)> {
    let windows = of_stage(boot, "boot-watch", "stood still").into_iter().filter_map(|record| {
        let micros = record.message().strip_prefix("stood still for ")?.strip_suffix(" us")?;
        let micros: f64 = micros.parse().ok()?;
        let end = since(record.at());
        Some((end - micros / 1e6, end))
    });
    windows.collect()
}

/// The picture as SVG.
pub(crate) fn svg(boot: &Boot, guest: Guest) -> Result<String, String> {
    let story = Story::of(boot)?;
    let mut text = String::new();
    draw(&story, guest, &mut text).map_err(|error| format!("cannot draw: {error}"))?;
    Ok(text)
}

fn draw(story: &Story, guest: Guest, to: &mut String) -> Drawn {
    let paper = SVGBackend::with_string(to, (SIZE.0 as u32, SIZE.1 as u32)).into_drawing_area();
    paper.fill(&PAPER)?;
    head(story, guest, &paper)?;
    let (_, below) = paper.split_vertically(LANES_END);
    let (upper, lower) = below.split_vertically(COUNTER_END - LANES_END);

    let most = story.ticks.iter().map(|(_, tick)| tick.number).max().unwrap_or_default();
    let counter = panel(&upper, story, (0.0, most as f64 * 1.08), 0)?;
    let offs = || story.off().map(|(_, off, _)| off);
    let (earliest, latest) = (offs().fold(0.0, f64::min), offs().fold(1.0, f64::max));
    let off = panel(&lower, story, (earliest * 1.25, latest * 1.25), 40)?;

    moments(story, &counter, &paper)?;
    lanes(story, &counter, &paper)?;
    draw_counter(story, &counter, &paper)?;
    draw_off(story, &off, &paper)?;
    paper.present()
}

fn head(story: &Story, guest: Guest, paper: &Area) -> Drawn {
    let Story { systemd, kernel, ticks, .. } = story;
    let title = format!("One boot from PID 1 to power-off: {guest}, systemd {systemd}");
    write(paper, &title, (20, 22), 17, INK, HPos::Left)?;
    let below = format!(
        "Linux {kernel} in QEMU, whose clock counts instructions, 2 ns each. \
         {} ticks, {} ms apart.",
        ticks.len(),
        PERIOD.as_millis()
    );
    write(paper, &below, (20, 44), 12, FAINT, HPos::Left)
}

/// A panel with its grid; the time axes of all panels are aligned.
fn panel<'a>(
    area: &Area<'a>,
    story: &Story,
    (low, high): (f64, f64),
    axis: i32,
) -> Drawn<Panel<'a, 'a>> {
    let mut panel = ChartBuilder::on(area)
        .margin_right(RIGHT)
        .margin_top(8)
        .margin_bottom(6)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, axis)
        .build_cartesian_2d(0.0..story.end, low..high)?;
    let mut mesh = panel.configure_mesh();
    mesh.x_labels(10).y_labels(5).light_line_style(TRANSPARENT).bold_line_style(GRID);
    mesh.axis_style(FAINT).label_style(("sans-serif", 12).into_font().color(&INK));
    let whole = |value: &f64| format!("{value:.0}");
    // If no tick was late, the panel spans less than 5 ms.
    let digits = usize::from(high - low < 5.0);
    let fine = |value: &f64| format!("{value:.digits$}");
    mesh.x_label_formatter(&whole).y_label_formatter(&fine);
    if axis > 0 {
        mesh.x_desc("seconds since PID 1 of the initrd began");
    }
    mesh.draw()?;
    Ok(panel)
}

/// The switch of root and the handoff, through all panels; the labels are where the counter's line
/// is not.
fn moments(story: &Story, panel: &Panel, paper: &Area) -> Drawn {
    const LINES: [i32; 2] = [22, 38];
    let (top, bottom) = (TARGETS_AT, PANELS_END);
    let x = |at: f64| panel.backend_coord(&(at, 0.0)).0;
    let (from, to) = (x(story.stopped.0), x(story.stopped.1).max(x(story.stopped.0) + 2));
    paper.draw(&Rectangle::new([(from, top), (to, bottom)], SWITCH.mix(0.25).filled()))?;
    let ms = |(from, to): (f64, f64)| format!("{:.1} ms", (to - from) * 1000.0);
    let last = story.ticks.iter().rfind(|(_, tick)| tick.stage == "initrd");
    let first = story.ticks.iter().find(|(_, tick)| tick.stage == "root");
    let gap = last.zip(first).map(|((from, _), (to, _))| (*from, *to)).unwrap_or_default();
    let named = [
        (story.switch, SWITCH, ["switch of root".to_owned(), String::new()]),
        (
            story.handoff.0,
            HANDOFF,
            [format!("handoff in {}", ms(story.handoff)), format!("{} tick to tick", ms(gap))],
        ),
    ];
    for (at, color, lines) in named {
        paper.draw(&PathElement::new([(x(at), top), (x(at), bottom)], color))?;
        for (line, below) in lines.iter().zip(LINES) {
            write(paper, line, (x(at) - 7, LANES_END + below), 12, color, HPos::Right)?;
        }
    }
    let still =
        [format!("all stopped for {}", ms(story.stopped)), "(SIGSTOP to SIGCONT)".to_owned()];
    for (line, below) in still.iter().zip(LINES) {
        write(paper, line, (to + 5, LANES_END + below), 12, SWITCH, HPos::Left)?;
    }
    Ok(())
}

/// The activity of PID 1 and the two instances.
fn lanes(story: &Story, panel: &Panel, paper: &Area) -> Drawn {
    let x = |at: f64| panel.backend_coord(&(at, 0.0)).0;
    let end = x(story.end);
    // A flag for each target, placed so that none covers the staff of a later one.
    let mut taken = [0; FLAGS];
    for (name, at, in_initrd) in &story.targets {
        let at = x(*at);
        let blocked = taken.iter().rposition(|taken| *taken > at - 4);
        let row = blocked.map_or(0, |row| (row + 1).min(FLAGS - 1));
        taken[row] = at + width(name, 11);
        let y = LANES_TOP + 8 + row as i32 * 13;
        let color = if *in_initrd { INITRD } else { ROOT_FS };
        paper.draw(&PathElement::new([(at, y - 6), (at, TARGETS_AT)], color.mix(0.6)))?;
        paper.draw(&Circle::new((at, TARGETS_AT), 3, color.filled()))?;
        write(paper, name, (at + 4, y), 11, color, HPos::Left)?;
    }
    paper.draw(&PathElement::new([(LEFT, TARGETS_AT), (end, TARGETS_AT)], FAINT))?;
    write(paper, "targets", (LEFT - 8, TARGETS_AT), 12, INK, HPos::Right)?;

    let Story { socket, first, root, handoff, .. } = story;
    let bars = [
        ("public socket", vec![(*socket, FAINT.mix(0.75), "listening: PID 1 holds it")]),
        (
            "initrd instance",
            vec![
                ((first.starting, first.serving), INITRD.mix(0.4), ""),
                ((first.serving, handoff.0), INITRD.mix(1.0), "serving"),
                ((handoff.0, first.gone), HANDOFF.mix(1.0), ""),
            ],
        ),
        (
            "root instance",
            vec![
                ((root.starting, root.serving), ROOT_FS.mix(0.4), "starting"),
                ((root.serving, root.gone), ROOT_FS.mix(1.0), "serving"),
            ],
        ),
    ];
    for ((name, parts), row) in bars.into_iter().zip(0..) {
        let (top, bottom) = (BARS_TOP + row * (BAR + 6), BARS_TOP + row * (BAR + 6) + BAR);
        let middle = top + BAR / 2;
        write(paper, name, (LEFT - 8, middle), 12, INK, HPos::Right)?;
        for ((from, to), color, text) in parts {
            let (from, to) = (x(from), x(to).max(x(from) + 2));
            paper.draw(&Rectangle::new([(from, top), (to, bottom)], color.filled()))?;
            if width(text, 11) < to - from {
                write(paper, text, ((from + to) / 2, middle), 11, PAPER, HPos::Center)?;
            }
        }
    }
    Ok(())
}

fn draw_counter(story: &Story, panel: &Panel, paper: &Area) -> Drawn {
    write(paper, "counter", (16, LANES_END + 16), 12, INK, HPos::Left)?;
    for (at, tick) in &story.ticks {
        let place = panel.backend_coord(&(*at, tick.number as f64));
        paper.draw(&Circle::new(place, 3, color_of(tick).filled()))?;
    }
    let Some((at, first)) = story.ticks.first() else { return Ok(()) };
    let (x, y) = panel.backend_coord(&(*at, first.number as f64));
    write(paper, "first tick", (x - 8, y - 22), 12, INK, HPos::Right)?;
    write(paper, &format!("at {at:.2} s"), (x - 8, y - 7), 12, INK, HPos::Right)?;
    for (stage, name, above) in [("initrd", "initrd instance", 52), ("root", "root instance", 32)] {
        let of_stage = || story.ticks.iter().filter(|(_, tick)| tick.stage == stage);
        if let (Some((_, from)), Some((_, to))) = (of_stage().next(), of_stage().next_back()) {
            let text = format!("{name}: {} to {}", from.number, to.number);
            let x = panel.backend_coord(&(story.handoff.1, 0.0)).0 + 24;
            paper.draw(&Circle::new((x, COUNTER_END - above), 4, color_of(from).filled()))?;
            write(paper, &text, (x + 10, COUNTER_END - above), 12, INK, HPos::Left)?;
        }
    }
    Ok(())
}

fn draw_off(story: &Story, panel: &Panel, paper: &Area) -> Drawn {
    write(paper, "ms after its", (16, COUNTER_END + 14), 12, INK, HPos::Left)?;
    write(paper, "deadline", (16, COUNTER_END + 29), 12, INK, HPos::Left)?;
    let x = |at: f64| panel.backend_coord(&(at, 0.0)).0;
    for (from, to) in &story.standstills {
        let (from, to) = (x(*from), x(*to).max(x(*from) + 2));
        let band = [(from, COUNTER_END + 8), (to, PANELS_END)];
        paper.draw(&Rectangle::new(band, FAINT.mix(0.25).filled()))?;
    }
    for (at, off, tick) in story.off() {
        let (zero, place) = (panel.backend_coord(&(at, 0.0)), panel.backend_coord(&(at, off)));
        paper.draw(&PathElement::new([zero, place], color_of(tick).stroke_width(2)))?;
        paper.draw(&Circle::new(place, 3, color_of(tick).filled()))?;
    }
    let latest = story.off().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((at, off, tick)) = latest else { return Ok(()) };
    let (place, y) = panel.backend_coord(&(at, off));
    let text = format!("the latest: {}, by {off:.1} ms", tick.number);
    let long = width(&text, 12);
    let right = place..place + 8 + long;
    let in_the_way = [story.switch, story.stopped.1, story.handoff.0, story.end];
    let (from, to) = match in_the_way.iter().any(|at| right.contains(&x(*at))) {
        true => (place - 8 - long, place - 8),
        false => (place + 8, place + 8 + long),
    };
    paper.draw(&Rectangle::new([(from, y - 9), (to, y + 9)], PAPER.mix(0.85).filled()))?;
    write(paper, &text, ((from + to) / 2, y), 12, INK, HPos::Center)?;
    write(paper, "grey: it could", (16, COUNTER_END + 56), 11, FAINT, HPos::Left)?;
    write(paper, "not run", (16, COUNTER_END + 70), 11, FAINT, HPos::Left)
}

fn color_of(tick: &Tick) -> RGBColor {
    if tick.stage == "initrd" { INITRD } else { ROOT_FS }
}

/// Draws text whose vertical centre is at this height.
fn write(on: &Area, text: &str, at: (i32, i32), size: i32, color: RGBColor, from: HPos) -> Drawn {
    let style = ("sans-serif", size).into_font().color(&color);
    on.draw(&Text::new(text.to_owned(), at, style.pos(Pos::new(from, VPos::Center))))
}

/// Approximate width of a text in pixels, because viewers have other fonts.
fn width(text: &str, size: i32) -> i32 {
    6 + text.chars().count() as i32 * size * 11 / 20
}
