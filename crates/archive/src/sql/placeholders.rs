//! Texts of statements over many rows or a list, with the placeholders that each database needs.
//! Pure.

use std::fmt::Write as _;

/// The head without its ` in `, where Postgres takes the list as an array.
pub(super) fn array_head(head: &str) -> Option<&str> {
    head.strip_suffix(" in ")
}

/// The head without its `values `, where Postgres inserts the rows from one array per column. Only
/// for inserts: the plan of a join depends on the number of rows.
pub(super) fn unnest_head(head: &str) -> Option<&str> {
    head.strip_suffix("values ").filter(|head| head.starts_with("insert into "))
}

/// The text of a statement over many rows. SQLite searches all earlier placeholders for a named
/// one, which is quadratic, so they are nameless there.
pub(super) fn render_rows(head: &str, width: usize, count: usize, tail: &str, postgres: bool) -> String {
    if let Some(head) = unnest_head(head).filter(|_| postgres) {
        let columns: Vec<String> = (1..=width).map(|column| format!("${column}")).collect();
        // Without a condition, `on conflict` would be parsed as the `on` of a join.
        return format!("{head}select * from unnest({}) where true{tail}", columns.join(","));
    }
    let mut text = String::with_capacity(head.len() + tail.len() + count * (width * 7 + 3));
    text.push_str(head);
    let mut number = 0;
    for row in 0..count {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..width {
            number += 1;
            text.push_str(if column == 0 { "" } else { "," });
            if postgres {
                // Writing to a String cannot fail.
                let _ = write!(text, "${number}");
            } else {
                text.push('?');
            }
        }
        text.push(')');
    }
    text.push_str(tail);
    text
}

/// The text of a statement with a list. On SQLite the placeholders are nameless, for the same
/// reason, where those before the list occur once each and in order.
pub(super) fn render_list(head: &str, before: usize, count: usize, tail: &str, postgres: bool) -> String {
    if let Some(head) = array_head(head).filter(|_| postgres) {
        return format!("{head} = any(${}){tail}", before + 1);
    }
    let mut text = String::with_capacity(head.len() + tail.len() + count * 6 + 2);
    let placeholders = head.matches('$').count();
    let in_order = (1..=before).try_fold(0, |from, nth| {
        let name = format!("${nth}");
        head.get(from..)?.find(&name).map(|at| from + at + name.len())
    });
    let is_nameless = !postgres && placeholders == before && in_order.is_some() && !tail.contains('$');
    if is_nameless {
        let last = (1..=before).fold(head, |rest, nth| {
            let (text_before, rest) = rest.split_once(&format!("${nth}")).unwrap_or((rest, ""));
            text.push_str(text_before);
            text.push('?');
            rest
        });
        text.push_str(last);
    } else {
        text.push_str(head);
    }
    text.push('(');
    for nth in 0..count {
        text.push_str(if nth == 0 { "" } else { "," });
        if is_nameless {
            text.push('?');
        } else {
            let _ = write!(text, "${}", before + nth + 1);
        }
    }
    text.push(')');
    text.push_str(tail);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_lists_use_nameless_placeholders_where_possible() {
        assert_eq!(render_list("a in ", 0, 3, " b", false), "a in (?,?,?) b");
        assert_eq!(render_list("a in ", 0, 3, " b", true), "a = any($1) b");
        assert_eq!(render_list("v = $1 and a in ", 1, 2, "", false), "v = ? and a in (?,?)");
        assert_eq!(render_list("v = $1 and a in ", 1, 2, "", true), "v = $1 and a = any($2)");
        assert_eq!(render_list("a <> all ", 0, 2, "", true), "a <> all ($1,$2)");
        assert_eq!(render_list("v = $1 and w = $1 and a in ", 1, 1, "", false), "v = $1 and w = $1 and a in ($2)");
        assert_eq!(render_list("a in ", 1, 1, " or v = $1", false), "a in ($2) or v = $1");
        assert_eq!(render_list("v = $2 and w = $1 and a in ", 2, 1, "", false), "v = $2 and w = $1 and a in ($3)");
    }

    #[test]
    fn postgres_inserts_rows_as_arrays() {
        let insert = "insert into t (a, b) values ";
        assert_eq!(
            render_rows(insert, 2, 2, " on conflict do nothing", false),
            format!("{insert}(?,?),(?,?) on conflict do nothing")
        );
        let arrays = "insert into t (a, b) select * from unnest($1,$2) where true on conflict do nothing";
        assert_eq!(render_rows(insert, 2, 2, " on conflict do nothing", true), arrays);
        assert_eq!(render_rows("with v (a) as (values ", 1, 2, ") b", true), "with v (a) as (values ($1),($2)) b");
    }
}
