//! Progress as it is shown on stderr: a bar on a terminal, else a line now and then, or nothing.
//!
//! Owns: [`Show`], [`bar`], [`pace`]. Must never know: what makes progress.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where stderr is no terminal.
pub const LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two looks of the bar.
const TICK: Duration = Duration::from_millis(200);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Bar,
    Lines,
    Nothing,
}

impl Show {
    pub fn choose(quiet: bool) -> Show {
        match quiet {
            true => Show::Nothing,
            false if io::stderr().is_terminal() => Show::Bar,
            false => Show::Lines,
        }
    }
}

/// Its length is in bytes; its message says what else there is to count.
pub fn bar(show: Show) -> ProgressBar {
    let target = match show {
        Show::Bar => ProgressDrawTarget::stderr(),
        Show::Lines | Show::Nothing => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let form = "{wide_bar} {msg}, {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(form).expect("the template is right"));
    if show == Show::Bar {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// `1.00 GiB of 4.00 GiB, 256.00 MiB/s, 12 seconds left`.
pub fn pace(done: u64, all: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!("{} of {}, {}/s", BinaryBytes(done), BinaryBytes(all), BinaryBytes(rate as u64));
    if rate >= 1.0 {
        let left = Duration::from_secs_f64(all.saturating_sub(done) as f64 / rate);
        line.push_str(&format!(", {} left", HumanDuration(left)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_much_how_fast_how_long() {
        let line = pace(1 << 30, 4 << 30, Duration::from_secs(4));
        assert_eq!(line, "1.00 GiB of 4.00 GiB, 256.00 MiB/s, 12 seconds left");
        assert_eq!(pace(0, 1024, Duration::from_secs(4)), "0 B of 1.00 KiB, 0 B/s");
    }
}
