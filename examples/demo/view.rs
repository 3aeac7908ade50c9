//! What the user sees while it runs: a table that redraws in place on a terminal, plain lines
//! elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::style::{Attribute, Color, SetAttribute, SetForegroundColor};
use crossterm::terminal::{BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, size};
use crossterm::{cursor, queue};

use crate::options::Options;
use crate::table::{Mood, Table};

/// Where and how to write.
pub(crate) struct View {
    out: Box<dyn Write + Send>,
    kind: Kind,
    colour: bool,
}

enum Kind {
    Silent,
    Plain {
        headed: bool,
    },
    Live {
        last: Option<(String, Table)>,
        /// The lines that are on the screen and will be drawn over.
        drawn: usize,
        /// The screen's width when they were drawn.
        width: usize,
    },
}

impl View {
    /// With `--json`, stdout is for the object alone, and a table is shown only to a terminal on
    /// stderr.
    pub(crate) fn new(options: &Options) -> Self {
        let out: Box<dyn Write + Send> = if options.json {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        };
        let terminal = if options.json {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let kind = match (options.quiet, terminal) {
            (false, true) if !dumb => Kind::Live {
                last: None,
                drawn: 0,
                width: 0,
            },
            (false, _) if terminal || !options.json => Kind::Plain { headed: false },
            _ => Kind::Silent,
        };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut view = Self {
            out,
            kind,
            colour: !no_colour,
        };
        view.put(|view, text| match view.kind {
            Kind::Live { .. } => queue!(text, cursor::Hide),
            _ => Ok(()),
        });
        view
    }

    /// Shows one line for good.
    pub(crate) fn event(&mut self, at: Duration, event: &str) {
        let line = format!("{:6.1} s  {event}", at.as_secs_f64());
        self.put(|view, text| {
            if matches!(view.kind, Kind::Silent) {
                return Ok(());
            }
            view.erase(text)?;
            writeln!(text, "{line}")?;
            view.draw(text)
        });
    }

    /// Shows the table as it is now.
    pub(crate) fn table(&mut self, at: Duration, title: String, table: Table) {
        self.put(|view, text| match &mut view.kind {
            Kind::Silent => Ok(()),
            Kind::Plain { headed } => {
                let lines = table.lines(usize::MAX);
                let skip = usize::from(std::mem::replace(headed, true));
                for (mood, line) in lines.into_iter().skip(skip) {
                    match mood {
                        Mood::Head => writeln!(text, "    time  {line}")?,
                        _ => writeln!(text, "{:6.1} s  {line}", at.as_secs_f64())?,
                    }
                }
                Ok(())
            }
            Kind::Live { last, .. } => {
                *last = Some((title, table));
                view.erase(text)?;
                view.draw(text)
            }
        });
    }

    /// Leaves the terminal as it was found. The last table stays.
    pub(crate) fn close(mut self) {
        self.restore();
    }

    fn restore(&mut self) {
        self.put(|view, text| match &mut view.kind {
            Kind::Live { .. } => queue!(text, cursor::Show),
            _ => Ok(()),
        });
        self.kind = Kind::Silent;
    }

    /// Draws the last table at the width that the terminal has now.
    fn draw(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let Kind::Live {
            last: Some((title, table)),
            drawn,
            width: at_width,
        } = &mut self.kind
        else {
            return Ok(());
        };
        let (width, height) = screen();
        *at_width = width;
        // A line that fills the last column would wrap on some terminals.
        let width = width - 1;
        let mut lines = vec![(Mood::Head, title.chars().take(width).collect())];
        lines.extend(table.lines(width));
        lines.truncate(height - 1);
        *drawn = lines.len();
        for (mood, line) in lines {
            paint(text, mood, &line, self.colour)?;
        }
        Ok(())
    }

    /// Takes the last table off the screen.
    fn erase(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        let Kind::Live { drawn, width, .. } = &mut self.kind else {
            return Ok(());
        };
        let rows = std::mem::take(drawn);
        let (now, height) = screen();
        // Some terminals wrap old lines when they get another width and some do not. The old table
        // then stays, since what stands above it must.
        if rows == 0 || rows >= height || *width != now {
            return Ok(());
        }
        let rows = u16::try_from(rows).unwrap_or(u16::MAX);
        queue!(
            text,
            cursor::MoveToPreviousLine(rows),
            Clear(ClearType::FromCursorDown)
        )
    }

    /// Writes in one piece. Whoever does not listen any more is left alone; the run goes on.
    fn put(&mut self, fill: impl FnOnce(&mut Self, &mut Vec<u8>) -> io::Result<()>) {
        let mut text = Vec::new();
        let live = matches!(self.kind, Kind::Live { .. });
        let write = || -> io::Result<()> {
            if live {
                queue!(text, BeginSynchronizedUpdate)?;
            }
            fill(self, &mut text)?;
            if live {
                queue!(text, EndSynchronizedUpdate)?;
            }
            self.out.write_all(&text)?;
            self.out.flush()
        };
        if write().is_err() {
            self.kind = Kind::Silent;
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Columns and rows; 80 by 24 where nobody knows.
fn screen() -> (usize, usize) {
    match size() {
        Ok((width, height)) if width > 1 && height > 1 => (width.into(), height.into()),
        _ => (80, 24),
    }
}

fn paint(text: &mut Vec<u8>, mood: Mood, line: &str, colour: bool) -> io::Result<()> {
    if !colour {
        return writeln!(text, "{line}");
    }
    match mood {
        Mood::Head => queue!(text, SetAttribute(Attribute::Bold))?,
        Mood::Good => {}
        Mood::Bad => queue!(text, SetForegroundColor(Color::Red))?,
        Mood::Gone => queue!(text, SetAttribute(Attribute::Dim))?,
    }
    write!(text, "{line}")?;
    queue!(text, SetAttribute(Attribute::Reset))?;
    writeln!(text)
}
