//! What a build looks like: three views of the same events.
//!
//! - *live*: one line for each thing that runs, redrawn; finished lines stay.
//! - *plain*: a line for each thing that began or ended; for CI logs.
//! - *JSON*: the events themselves, on standard output.
//!
//! One thread owns the terminal. Colour is never the only sign.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::failure::Failure;
use super::{Common, Progress, why};
use crate::event::{Event, Events, FactShown, LayerShown, Reads, ReusedFrom, Summary};
use crate::image::title;

/// Runs `work` while showing its events. Returns when both have ended.
pub(super) fn watch<T>(
    common: &Common,
    work: impl FnOnce(Events) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (sender, events) = mpsc::channel();
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
    let mut view: Box<dyn View> = match (common.progress, common.json) {
        (Progress::None, _) => Box::new(Silent { json: common.json }),
        (Progress::Auto, false) if terminal => Box::new(Live::new(common.verbose)),
        (_, json) => Box::new(Plain { json, verbose: common.verbose, started: BTreeMap::new() }),
    };
    thread::scope(|scope| {
        let shower = scope.spawn(move || {
            for event in events {
                view.show(&event);
            }
            view.end();
        });
        let result = work(Events::new(sender));
        // The sender went with the work, so the view has ended or will.
        if shower.join().is_err() {
            super::tell("forge: the progress view failed; the build went on without it\n");
        }
        match LOST.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(problem) if result.is_ok() => {
                Err(Failure::usage(format!("could not write to standard output: {problem}")))
            }
            _ => result,
        }
    })
}

trait View: Send {
    fn show(&mut self, event: &Event);
    fn end(&mut self) {}
}

/// Nothing, or JSON alone.
struct Silent {
    json: bool,
}

impl View for Silent {
    fn show(&mut self, event: &Event) {
        if self.json {
            print_json(event);
        }
    }
}

/// Whether events could not be printed; the first reason is kept. A reader that
/// has gone away (`| head`) wants no more, which is no failure.
static LOST: Mutex<Option<String>> = Mutex::new(None);

fn print_json(event: &Event) {
    let written = serde_json::to_string(event)
        .map_err(std::io::Error::from)
        .and_then(|text| writeln!(std::io::stdout().lock(), "{text}"));
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
    }
}

/// Lines for a log.
struct Plain {
    json: bool,
    verbose: bool,
    started: BTreeMap<String, Instant>,
}

impl View for Plain {
    fn show(&mut self, event: &Event) {
        if self.json {
            print_json(event);
            return;
        }
        if let Event::StepLine { step, line } = event {
            if self.verbose {
                super::tell(&format!("  {step} | {line}\n"));
            }
            return;
        }
        if let Event::StepStarted { step, because } = event {
            self.started.insert(step.clone(), Instant::now());
            super::tell(&format!("  {step:<18} runs{}\n", why::summary(because)));
        }
        for line in lines(event) {
            super::tell(&format!("{line}\n"));
        }
    }
}

/// Lines that are redrawn.
struct Live {
    verbose: bool,
    lines: MultiProgress,
    running: BTreeMap<String, ProgressBar>,
}

impl Live {
    fn new(verbose: bool) -> Live {
        Live { verbose, lines: MultiProgress::new(), running: BTreeMap::new() }
    }

    fn say(&self, line: &str) {
        self.lines.suspend(|| super::tell(&format!("{line}\n")));
    }

    fn bar(&mut self, name: &str) -> &ProgressBar {
        self.running.entry(name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("  {prefix:<18} {elapsed:>4} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = self
                .lines
                .add(ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        })
    }
}

impl View for Live {
    fn show(&mut self, event: &Event) {
        match event {
            Event::StepStarted { step, because } => {
                let because = why::summary(because);
                self.bar(step).set_message(because.trim_start_matches(": ").to_owned());
            }
            Event::StepWaits { step } => {
                self.bar(step).set_message("waits for another build that makes it")
            }
            Event::StepLine { step, line } => {
                if self.verbose {
                    self.say(&format!("  {step} | {line}"));
                }
                self.bar(step).set_message(clean(line));
            }
            Event::Download { step, done, total } => {
                self.bar(step).set_message(format!("{} of {}", bytes(*done), bytes(*total)));
            }
            Event::Pushing { what, done, total } => {
                self.bar(&format!("push {what}")).set_message(format!(
                    "{} of {}",
                    bytes(*done),
                    bytes(*total)
                ));
            }
            Event::Caching { what, done, total } => {
                let message = format!("{} of {}", bytes(*done), bytes(*total));
                self.bar(&format!("cache {what}")).set_message(message);
                if done == total
                    && let Some(bar) = self.running.remove(&format!("cache {what}"))
                {
                    bar.finish_and_clear();
                }
            }
            Event::StepFinished { step, .. }
            | Event::Fetched { step, .. }
            | Event::StepFailed { step }
            | Event::StepReused { step, .. } => {
                if let Some(bar) = self.running.remove(step) {
                    bar.finish_and_clear();
                }
            }
            Event::Pushed { what, .. } => {
                if let Some(bar) = self.running.remove(&format!("push {what}")) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
        for line in lines(event) {
            self.say(&line);
        }
    }

    fn end(&mut self) {
        for bar in self.running.values() {
            bar.finish_and_clear();
        }
    }
}

/// A step's words without what would move the cursor.
fn clean(line: &str) -> String {
    line.chars().filter(|letter| !letter.is_control()).collect()
}

/// The lines that both views show and leave standing.
fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::Detected { buildpack, facts } => {
            let mut found = vec![format!("{buildpack}")];
            for FactShown { name, value, origin } in facts {
                let value = if value.is_empty() { "any version" } else { value };
                found.push(format!("  {name:<18} {value}  ({origin})"));
            }
            found
        }
        Event::Notice { text, advice } => {
            let mut found = vec![format!("note: {text}")];
            found.extend(advice.iter().map(|advice| format!("  → {advice}")));
            found
        }
        Event::Solving { release } => vec![format!("choosing packages of Debian {release}")],
        Event::Solved { step, packages, bytes: size, locked: false } => {
            vec![format!("  {step:<18} {packages} packages, {}", bytes(*size))]
        }
        Event::StepFinished { step, milliseconds, bytes: size, reads, .. } => {
            let reads = reads.map_or_else(String::new, |Reads { read, given }| {
                format!(", read {read} of {given} files")
            });
            vec![format!("  {step:<18} ran in {}, {}{reads}", seconds(*milliseconds), bytes(*size))]
        }
        Event::StepReused { step, from, reads, .. } => {
            let from = match from {
                ReusedFrom::Store => "reused",
                ReusedFrom::Cache => "from the cache",
                ReusedFrom::Lock => "from forge.lock",
            };
            let reads = reads.map_or_else(String::new, |Reads { read, given }| {
                format!(": none of the {read} files that it reads has changed, of {given}")
            });
            vec![format!("  {step:<18} {from}{reads}")]
        }
        Event::StepFailed { step } => vec![format!("  {step:<18} FAILED")],
        Event::LayerPacked { step, part, size, reused: false, milliseconds, .. } => {
            let title = title(step, part.as_deref());
            vec![format!(
                "  {title:<18} packed in {}, {} compressed",
                seconds(*milliseconds),
                bytes(*size)
            )]
        }
        Event::Pushed { what, sent: 0 } => vec![format!("  {what:<18} was there")],
        Event::Pushed { what, sent } => vec![format!("  {what:<18} pushed, {}", bytes(*sent))],
        Event::Fetched { step, bytes: size } => {
            vec![format!("  {step:<18} fetched, {}", bytes(*size))]
        }
        Event::Cached { repository, results, sent } => {
            vec![format!("cached {results} results in {repository}, {} sent", bytes(*sent))]
        }
        Event::ImageKnown { repository } => {
            vec![format!("nothing has changed: {repository} has the image")]
        }
        Event::Moved { reference, from, .. } => {
            vec![format!("moved {reference}, which named {from}")]
        }
        Event::Written { to } => vec![format!("wrote {to}")],
        Event::Finished(summary) => finished(summary),
        _ => Vec::new(),
    }
}

fn finished(summary: &Summary) -> Vec<String> {
    let mut found = Vec::new();
    let total: u64 = summary.layers.iter().map(|layer| layer.size).sum();
    // Nobody counts what the layers of a base image unpack to.
    let unpacked = |count: u64| match count {
        0 => String::new(),
        known => format!("{:>10} unpacked", bytes(known)),
    };
    let counted = summary.layers.iter().all(|layer| layer.unpacked > 0);
    let sum = if counted { summary.layers.iter().map(|layer| layer.unpacked).sum() } else { 0 };
    let titled = |layer: &LayerShown| title(&layer.step, layer.part.as_deref());
    let width = summary.layers.iter().map(|layer| titled(layer).chars().count()).max();
    let width = width.unwrap_or_default().max(18);
    for layer in &summary.layers {
        let (title, size) = (titled(layer), bytes(layer.size));
        let line = format!("  layer {title:<width$} {size:>10} {}", unpacked(layer.unpacked));
        found.push(line.trim_end().to_owned());
    }
    let line = format!("  total {:<width$} {:>10} {}", "", bytes(total), unpacked(sum));
    found.push(line.trim_end().to_owned());
    let work = match summary.ran {
        0 => "nothing had to run".to_owned(),
        1 => format!("1 step ran, {} reused", summary.reused),
        ran => format!("{ran} steps ran, {} reused", summary.reused),
    };
    found.push(format!("done in {}: {work}", seconds(summary.milliseconds)));
    found.push(format!("image {}", summary.digest));
    let first = summary.processes.iter().find(|kind| *kind == "web").or(summary.processes.first());
    if let Some(first) = first {
        found.push(format!("processes: {}", summary.processes.join(", ")));
        found.push(format!("run one here: forge run {} -- {first}", summary.app));
    }
    found
}

/// Bytes for people, in powers of 1000.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 || unit == "GB" {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{count} B")
}

fn seconds(milliseconds: u64) -> String {
    let value = milliseconds as f64 / 1000.0;
    if value < 60.0 {
        format!("{value:.1} s")
    } else {
        format!("{} min {:02.0} s", milliseconds / 60_000, value % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (count, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_234_567, "1.2 MB"),
            (999_960, "1.0 MB"),
            (5_000_000_000, "5.0 GB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(seconds(1234), "1.2 s");
        assert_eq!(seconds(61_000), "1 min 01 s");
    }

    #[test]
    fn a_steps_words_cannot_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\tc"), "a[2Jbc");
    }
}
