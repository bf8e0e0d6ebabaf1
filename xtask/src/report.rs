//! The report that the library writes, one JSON object per test and line, as a table.

use std::time::Duration;

use serde_json::Value;

use crate::say::span;

/// The lines to print: one per test, then the totals.
pub(crate) fn table(report: &str) -> Vec<String> {
    let lines = report
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect::<Vec<_>>();
    let tests = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .collect::<Vec<_>>();
    let mut rows = vec![["test", "outcome", "machine", "engine", "start"].map(String::from)];
    rows.extend(tests.iter().map(row));
    let widths = std::array::from_fn::<_, 5, _>(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });

    let mut table = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect::<Vec<_>>();
        let phases = index
            .checked_sub(1)
            .map_or_else(|| "phases".into(), |test| phases(&tests[test]));
        table.push(format!("{}  {phases}", cells.join("  ")));
        let error = index
            .checked_sub(1)
            .and_then(|test| tests[test]["error"].as_str());
        table.extend(
            error
                .into_iter()
                .flat_map(str::lines)
                .map(|line| format!("    {line}")),
        );
    }
    table.push(String::new());
    table.push(totals(&tests));
    if lines.len() > tests.len() {
        table.push(format!(
            "{} lines of the report could not be read",
            lines.len() - tests.len()
        ));
    }
    table
}

fn row(test: &Value) -> [String; 5] {
    let text = |field: &str| test[field].as_str().unwrap_or("-").to_owned();
    let machine = match test["snapshot"].as_str() {
        Some(snapshot) => format!("{} at `{snapshot}`", text("image")),
        None => text("image"),
    };
    let start = if test["warm"] == true { "warm" } else { "cold" };
    [
        text("test"),
        text("outcome"),
        machine,
        text("engine"),
        start.into(),
    ]
}

fn phases(test: &Value) -> String {
    let phases = test["phases"].as_array().into_iter().flatten();
    let named = phases.filter_map(|phase| Some((phase[0].as_str()?, phase[1].as_f64()?)));
    let told = named.map(|(name, ms)| format!("{name} {}", span(Duration::from_secs_f64(ms.max(0.0) / 1e3))));
    told.collect::<Vec<_>>().join(", ")
}

fn totals(tests: &[Value]) -> String {
    let with = |outcome: &str| tests.iter().filter(|test| test["outcome"] == outcome).count();
    let mut machines = tests
        .iter()
        .filter_map(|test| test["machine"].as_str())
        .collect::<Vec<_>>();
    machines.sort_unstable();
    machines.dedup();
    format!(
        "{} tests in {} machines: {} passed, {} failed, {} errored, {} skipped",
        tests.len(),
        machines.len(),
        with("passed"),
        with("failed"),
        with("errored"),
        with("skipped")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_has_a_row_with_its_phases() {
        let report = concat!(
            r#"{"test":"serves","outcome":"passed","image":"debian","snapshot":"ready","engine":"QEMU 10.0.2 (tcg)","#,
            r#""machine":"m1","warm":true,"phases":[["lease",1.5],["body",1200]]}"#,
            "\n",
            r#"{"test":"breaks","outcome":"failed","image":"tiny","engine":"QEMU 10.0.2 (tcg)","machine":"m2","#,
            r#""warm":false,"phases":[],"error":"assertion failed\nhere"}"#,
            "\nnot json\n"
        );
        let table = table(report);
        assert!(table[1].starts_with("serves  passed"), "{table:?}");
        assert!(table[1].contains("debian at `ready`"), "{table:?}");
        assert!(
            table[1].ends_with("warm   lease 1.5 ms, body 1.20 s"),
            "{table:?}"
        );
        assert!(table[2].contains("tiny"), "{table:?}");
        assert_eq!(table[3..5], ["    assertion failed", "    here"]);
        assert_eq!(
            table[6],
            "2 tests in 2 machines: 1 passed, 1 failed, 0 errored, 0 skipped"
        );
        assert_eq!(table[7], "1 lines of the report could not be read");
    }
}
