//! The text of a time limit.

use syn::{Error, Expr, ExprLit, Lit, Result};

const FORM: &str = "a time limit is a whole number above 0 and its unit: \"500ms\", \"30s\", \"5m\", \"1h\"; \
                    or an expression of type `Duration`";

/// The milliseconds, if `value` is a literal: only of those can the meaning be known here.
pub(crate) fn limit(value: &Expr) -> Result<Option<u64>> {
    let Expr::Lit(ExprLit { lit, .. }) = value else {
        return Ok(None);
    };
    match lit {
        Lit::Str(text) => milliseconds(&text.value()),
        _ => None,
    }
    .map(Some)
    .ok_or_else(|| Error::new_spanned(value, FORM))
}

fn milliseconds(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let factor = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    count.checked_mul(factor).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn a_limit_is_a_number_and_a_unit() {
        assert_eq!(milliseconds("500ms"), Some(500));
        assert_eq!(milliseconds("30s"), Some(30_000));
        assert_eq!(milliseconds("5 min"), Some(300_000));
        assert_eq!(milliseconds("1h"), Some(3_600_000));
        for wrong in [
            "",
            "30",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "30 parsecs",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(milliseconds(wrong), None, "{wrong}");
        }
    }
}
