//! The fault matrix as a page: what was run, where, with which seeds, and what failed.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Fault, Row};
use crate::loads::Load;

/// Violations that are told in full for each row.
const TOLD_MAX: usize = 5;
/// Most characters of one violation.
const STORY_CHARS_MAX: usize = 400;

/// Where and how a matrix was run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors, memory and kernel, in a few words.
    pub hardware: String,
    /// What was built with what.
    pub software: String,
    /// When, in UTC.
    pub date: String,
    /// The command.
    pub command: String,
    /// How long each run strikes.
    pub lasts: Duration,
    /// How long all took.
    pub took: Duration,
}

/// The page.
pub fn report(machine: &Machine, rows: &[(Fault, Row)], loads: &[Load]) -> String {
    let mut page = String::new();
    head(&mut page, machine, rows);
    table(&mut page, rows, loads);
    failing(&mut page, rows);
    legend(&mut page, rows, loads, machine);
    page
}

// Writing into a string cannot fail; the result is looked at nowhere below.
macro_rules! line {
    ($page:expr, $($words:tt)*) => { let _ = writeln!($page, $($words)*); };
}

fn head(page: &mut String, machine: &Machine, rows: &[(Fault, Row)]) {
    let faults: usize = rows.iter().map(|(_, row)| row.faults).sum();
    let done: usize = rows.iter().flat_map(|(_, row)| row.cells.values()).map(|cell| cell.done).sum();
    let unknown: usize = rows.iter().flat_map(|(_, row)| row.cells.values()).map(|cell| cell.unknown).sum();
    let violations: usize = rows.iter().map(|(_, row)| row.all_violations().len()).sum();
    let skipped = rows.iter().filter(|(_, row)| row.skipped.is_some()).count();
    line!(page, "# Faults\n");
    line!(
        page,
        "Written by the command below, not by hand. Each row is a fault that strikes a cluster of three DCs of three real \
         `meridian serve` processes again and again while all loads run side by side; each column is a load and what must \
         hold of it, decided by checkers that know only what clients asked and were told, and what all nine nodes hold \
         afterwards. When the last fault has healed the cluster must be ready, equal on all nodes and serving every load \
         again within 90 s, or that is a violation too.\n"
    );
    line!(page, "- Machine: {}", machine.hardware);
    line!(page, "- Versions: {}", machine.software);
    line!(page, "- Date: {}", machine.date);
    line!(page, "- Command: `{}`", machine.command);
    line!(page, "- Took {} s in all", machine.took.as_secs());
    line!(
        page,
        "- In sum: {faults} faults, {done} operations done, {unknown} of unknown outcome, **{violations} violations**, \
         {skipped} rows skipped\n"
    );
}

fn table(page: &mut String, rows: &[(Fault, Row)], loads: &[Load]) {
    line!(page, "## Matrix\n");
    line!(
        page,
        "A cell says: operations done / of unknown outcome / violations. *faults* is how often the fault struck in all runs of \
         the row; *cluster* is what belongs to no load: nodes that return, become equal, stop when they must. *whole* is the \
         longest time from the last fault until all nodes were ready, had gone on with every load, and were found equal (not \
         counting the time that loads took to end).\n"
    );
    let names: Vec<String> = loads.iter().map(|load| load.name().to_string()).collect();
    line!(page, "| fault | runs | faults | whole | cluster | {} |", names.join(" | "));
    line!(page, "|---|---|---|---|---|{}", "---|".repeat(loads.len()));
    for (fault, row) in rows {
        if let Some(why) = &row.skipped {
            line!(
                page,
                "| `{}` | SKIPPED: {} | | | |{}",
                fault.name(),
                one_line(why),
                " |".repeat(loads.len())
            );
            continue;
        }
        let own = row.violations.len();
        let own = if own == 0 { "ok".to_string() } else { format!("**{own} FAILING**") };
        let cells: Vec<String> = loads
            .iter()
            .map(|load| match row.cells.get(load) {
                None => "-".to_string(),
                Some(cell) if cell.violations.is_empty() => format!("{} / {} / 0", cell.done, cell.unknown),
                Some(cell) => {
                    format!("{} / {} / **{} FAILING**", cell.done, cell.unknown, cell.violations.len())
                }
            })
            .collect();
        let whole = format!("{:.1} s", row.whole_after.as_secs_f64());
        line!(
            page,
            "| `{}` | {} | {} | {whole} | {own} | {} |",
            fault.name(),
            row.seeds.len(),
            row.faults,
            cells.join(" | ")
        );
    }
    line!(page, "");
}

fn failing(page: &mut String, rows: &[(Fault, Row)]) {
    line!(page, "## What fails\n");
    let mut any = false;
    for (fault, row) in rows {
        let violations = row.all_violations();
        if violations.is_empty() {
            continue;
        }
        any = true;
        line!(
            page,
            "`{}`, seeds {:?}, {} violations, of which the first:\n",
            fault.name(),
            row.seeds,
            violations.len()
        );
        for violation in violations.iter().take(TOLD_MAX) {
            line!(page, "- {}", one_line(violation));
        }
        line!(page, "");
    }
    if !any {
        line!(page, "Nothing in this run.\n");
    }
}

fn legend(page: &mut String, rows: &[(Fault, Row)], loads: &[Load], machine: &Machine) {
    line!(page, "## Rows\n\n| fault | what happens | seeds |\n|---|---|---|");
    for (fault, row) in rows {
        let seeds: Vec<String> = row.seeds.iter().map(ToString::to_string).collect();
        line!(page, "| `{}` | {} | {} |", fault.name(), fault.story(), seeds.join(", "));
    }
    line!(page, "\n## Columns\n\n| load | what clients do and what must hold |\n|---|---|");
    for load in loads {
        line!(page, "| `{}` | {} |", load.name(), load.story());
    }
    line!(
        page,
        "\nEvery load is also held to: the four session guarantees; what was acknowledged is there once, on every node, and \
         what was refused nowhere; what was deleted stays deleted.\n"
    );
    line!(page, "## Repeating a cell\n");
    line!(
        page,
        "```sh\ncargo run --release -p meridian-tests --bin matrix -- --faults FAULT --loads LOAD --seed SEED --seconds {}\n```\n",
        machine.lasts.as_secs()
    );
    line!(
        page,
        "A seed draws victims, durations and what clients ask; who leads at the moment and when answers come is the machine's, so \
         that a repeated run is a like one and not the same one. With all loads of the row (no `--loads`) it is closest to \
         what was run here. A run that fails keeps the nodes' files and logs and says where."
    );
}

fn one_line(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ").replace('|', "\\|");
    text.chars().take(STORY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Cell;

    #[test]
    fn a_page_names_what_fails_and_what_was_skipped() {
        let cell = |violations: &[&str]| Cell {
            runs: 1,
            done: 7,
            violations: violations.iter().map(ToString::to_string).collect(),
            ..Cell::default()
        };
        let row = |violations: &[&str]| Row {
            seeds: vec![5],
            faults: 3,
            cells: [(Load::Set, cell(violations))].into(),
            ..Row::default()
        };
        let skipped = Row { seeds: vec![5], skipped: Some("no rights".into()), ..Row::default() };
        let rows = [
            (Fault::None, row(&[])),
            (Fault::KillAll, row(&["Lost: 1 | is\nlost"])),
            (Fault::FullDisk, skipped),
        ];
        let machine = Machine {
            hardware: "h".into(),
            software: "s".into(),
            date: "d".into(),
            command: "c".into(),
            lasts: Duration::from_secs(9),
            took: Duration::from_secs(99),
        };
        let page = report(&machine, &rows, &[Load::Set]);
        for line in [
            "| `none` | 1 | 3 | 0.0 s | ok | 7 / 0 / 0 |",
            "| `kill-all` | 1 | 3 | 0.0 s | ok | 7 / 0 / **1 FAILING** |",
            "| `full-disk` | SKIPPED: no rights | | | | |",
            "- set: Lost: 1 \\| is lost",
            "**1 violations**, 1 rows skipped",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
