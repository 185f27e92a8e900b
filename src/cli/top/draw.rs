//! The dashboard on the screen, whatever its size.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};

use super::model::{DropRow, Model, Row};
use crate::cli::status::{age, governor_words};

/// Widths of the columns before the sparkline.
const COLUMNS: [u16; 6] = [20, 14, 11, 11, 9, 9];
/// Lines that the drops get, frame included, when there is room for both.
const DROPS: u16 = 10;

/// Draws all of it. Colours only stress what words say too.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let [title, sessions, drops, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Length(DROPS.min(frame.area().height / 3)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(model), title);
    rows(model, sessions, frame);
    dropped(model, drops, frame);
    let keys = Line::from(" q quit   ↑ ↓ choose   p pause or resume").style(Style::new().add_modifier(Modifier::DIM));
    let foot_line =
        model.message.as_ref().map_or(keys, |message| Line::from(format!(" {message}")).style(Color::Yellow));
    frame.render_widget(foot_line, foot);
}

fn heading(model: &Model) -> Line<'static> {
    let view = model.view();
    let well = view.sessions.iter().filter(|session| session.state.is_well()).count();
    let unwell = match view.sessions.len() - well {
        0 => String::new(),
        count => format!(", {count} not"),
    };
    let text = format!(" farspan {}   up for {}   sessions: {well} well{unwell}", view.version, age(view.uptime));
    Line::from(text).style(Modifier::BOLD)
}

fn rows(model: &Model, area: Rect, frame: &mut Frame<'_>) {
    let block = Block::bordered().title(" sessions and destinations ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(inside);
    let titles = ["", "", "frames/s", "bits/s", "lost/s", "p99"].map(str::to_owned);
    line(&titles, head, Style::new().add_modifier(Modifier::DIM), frame);
    let rows = model.rows();
    // The chosen session stays in sight, with the two destinations below it.
    let chosen = rows.iter().position(|row| row.is_chosen).unwrap_or(0);
    let skipped = (chosen + 3).saturating_sub(usize::from(body.height));
    for (row, line_area) in rows.iter().skip(skipped).zip(body.rows()) {
        one(row, line_area, frame);
    }
}

fn one(row: &Row, area: Rect, frame: &mut Frame<'_>) {
    let mark = match (row.is_chosen, row.is_destination) {
        (true, _) => "> ",
        (false, true) => "    ",
        (false, false) => "  ",
    };
    let style = match (row.is_well, row.is_chosen) {
        (false, _) => Style::new().fg(Color::Red),
        (true, true) => Style::new().add_modifier(Modifier::BOLD),
        (true, false) => Style::new(),
    };
    let cells = [
        format!("{mark}{}", row.name),
        row.state.clone(),
        short(row.frames),
        short(row.bits),
        short(row.lost),
        row.delay.map_or_else(String::new, millis),
    ];
    let rest = line(&cells, area, style, frame);
    let shown = usize::from(rest.width).min(row.history.len());
    let latest = &row.history[row.history.len() - shown..];
    frame.render_widget(Sparkline::default().data(latest).style(Color::Cyan), rest);
}

/// Writes cells into the columns, names to the left and numbers to the right; what is left of the line is returned.
fn line(cells: &[String; 6], area: Rect, style: Style, frame: &mut Frame<'_>) -> Rect {
    let widths = COLUMNS.map(Constraint::Length).into_iter().chain([Constraint::Min(0)]);
    let areas = Layout::horizontal(widths).spacing(1).split(area);
    for (column, (cell, area)) in cells.iter().zip(areas.iter()).enumerate() {
        let text = Line::from(cell.as_str()).style(style);
        frame.render_widget(if column < 2 { text.left_aligned() } else { text.right_aligned() }, *area);
    }
    areas.last().copied().unwrap_or_default()
}

fn dropped(model: &Model, area: Rect, frame: &mut Frame<'_>) {
    let Some(session) = model.chosen() else { return };
    let block = Block::bordered().title(format!(" {}: why frames were dropped ", session.name));
    let mut lines: Vec<Line<'_>> =
        session.last_error.iter().map(|error| Line::from(format!(" last error: {error}")).style(Color::Red)).collect();
    let governor = session.governor.iter();
    lines.extend(governor.map(|governor| Line::from(format!(" limits: {}", governor_words(governor)))));
    lines.extend(model.drops().iter().map(drop_line));
    if lines.is_empty() {
        lines.push(Line::from(" none").style(Modifier::DIM));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn drop_line(row: &DropRow) -> Line<'static> {
    let what = if row.destination.is_empty() {
        row.label().to_owned()
    } else {
        format!("{} at {}", row.label(), row.destination)
    };
    let style = if row.is_loss() && row.rate > 0 { Style::new().fg(Color::Red) } else { Style::new() };
    let counts = Span::styled(format!(" {what:<30} {:>8}/s {:>9}  ", short(row.rate), short(row.total)), style);
    let remedy = if row.is_loss() { row.remedy() } else { "as the rules want it" };
    Line::from(vec![counts, Span::styled(remedy, Modifier::DIM)])
}

/// A number in at most five characters and its prefix.
#[allow(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn short(number: u64) -> String {
    let (mut value, mut prefixes) = (number as f64, ["", "k", "M", "G", "T", "P", "E"].into_iter());
    let mut prefix = prefixes.next().unwrap_or_default();
    while value >= 9_999.5 {
        value /= 1e3;
        prefix = prefixes.next().unwrap_or_default();
    }
    if prefix.is_empty() || value >= 99.95 { format!("{value:.0}{prefix}") } else { format!("{value:.1}{prefix}") }
}

fn millis(delay: Duration) -> String {
    format!("{:.1} ms", delay.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::daemon::testing;

    fn screen(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(model, frame)).unwrap();
        terminal.backend().to_string()
    }

    fn moving() -> Model {
        let mut model = Model::new(testing::view());
        let mut view = testing::view();
        for captured in [1_000, 5_000, 30_000] {
            view.uptime += Duration::from_secs(1);
            view.sessions[0].ledger.captured += captured;
            view.sessions[0].ledger.destinations[0].sent += captured;
            view.sessions[0].ledger.destinations[0].bytes += captured * 1_000;
            model.update(view.clone());
        }
        model
    }

    #[test]
    fn the_dashboard_shows_rates_states_and_remedies() {
        let text = screen(&moving(), 120, 24);
        for words in [
            "farspan 0.1.0   up for 3days 2h   sessions: 1 well, 1 not",
            "> dmz                shedding             30.0k        240M         0",
            " limits: shedding by limit.cpu: 62.5 % of the frames are kept",
            "    ids1             reachable            30.0k        240M         0",
            "    archive          out of reach ",
            "  relay              again in 3 s ",
            "dmz: why frames were dropped",
            " unreachable at archive                0/s        30  check `ip route get` and `ip neigh`",
            " own_traffic                           0/s       100  as the rules want it",
            "q quit   ↑ ↓ choose   p pause or resume",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        let dmz = text.lines().find(|line| line.contains("> dmz")).unwrap();
        assert!(dmz.contains('█') && dmz.contains('▁'), "{dmz}");
    }

    #[test]
    fn every_size_of_screen_is_drawn() {
        let mut model = moving();
        model.message = Some("paused".into());
        for (width, height) in [(1, 1), (10, 3), (40, 6), (79, 11), (300, 100)] {
            screen(&model, width, height);
        }
        model.down();
        assert!(screen(&model, 80, 12).contains("> relay"));
        assert!(screen(&model, 120, 24).contains("last error: UDP port 4789 is taken"));
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0, 9_999, 10_000, 123_456, 9_999_600, 10_000_000_000, u64::MAX].map(short);
        assert_eq!(numbers, ["0", "9999", "10.0k", "123k", "10.0M", "10.0G", "18.4E"]);
    }
}
