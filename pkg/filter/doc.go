// Package filter parses MLflow's search filters and order_by clauses into a
// small syntax tree that has no strings left to interpret, and evaluates that
// tree over a record held in memory. Services that search by SQL walk the tree
// and bind its keys and values as parameters.
//
// The reference is MLflow 3.18.0 with its SQL store. testdata/corpus.jsonl
// holds what this package answers, and testdata/verify.py checks that against
// MLflow itself.
//
// # Grammar
//
//	filter     = { "AND" | comparison } .
//	comparison = identifier ( operator value | null ) .
//	identifier = [ entity "." ] key .
//	entity     = word | "`" word "`" .
//	key        = word { "." word } | backticked | quoted .
//	operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "LIKE" | "ILIKE" | [ "NOT" ] "IN" .
//	null       = "IS" [ "NOT" ] "NULL" .
//	value      = number | quoted | list .
//	list       = "(" literal { "," literal } [ "," ] ")" .
//	number     = [ "-" ] ( digits [ "." { digit } ] | "." digits ) [ "e" [ "+" | "-" ] digits ] .
//	word       = wordchar { wordchar } .          (* letters, numbers of any script, "_" *)
//	backticked = "`" { any but "`" | "``" } "`" .
//	quoted     = "'" { any but "'" | "''" | "\'" } "'"   (* likewise with double quotes *) .
//	literal    = quoted with the escapes \\ \' \" \n \r \t .
//
//	order      = identifier [ "ASC" | "DESC" ] .
//
// Keywords are case-insensitive, entities and keys are not. An identifier
// without an entity names an attribute. Which entities, attributes and
// operators there are depends on what is searched; see rules.go.
//
// As in MLflow, the AND between two comparisons may be left out or repeated,
// and the text between the quotes of a key or of a single value is taken as it
// stands: a doubled quote or a backslash is kept, so that a value with a single
// quote in it is best written in double quotes. Only the strings of a list have
// escapes.
//
// For logged models, a string value may also be a number or a word without
// quotes. LIKE has no escape: a backslash stands for itself, so who translates
// a pattern to a database that has one must double it.
//
// # Differences from MLflow
//
// The corpus has them case by case, with the reason in "why".
//
// Accepted here though not by MLflow: bare keys that are numbers or certain SQL
// keywords (metrics.1, metrics.from); any white space inside IS NOT NULL and
// around an order_by clause; a missing AND before IN and IS; exponents written
// e+3 or after a bare point; quoted attribute keys, backticked entities and
// operators in lower case for every kind; attributes.creation_timestamp for
// logged models.
//
// Refused here though not by MLflow: keys that are empty, or have other than
// word characters and dots, without quotes; keys quoted in part
// (params.a.`b`); list strings set side by side, nested, prefixed or with other
// escapes; logged model attributes that are columns of MLflow's tables and no
// more; infinities and NaN spelled as words; ordering comparisons of a
// dataset's text attributes; a field named twice in any order_by.
//
// Understood otherwise: double quotes of logged models and the quotes of a
// dataset's tag key delimit, where MLflow makes them part of the text; of a key
// in backticks in double quotes only the outer quotes are taken off.
//
// Messages say the same as MLflow's. Sets are printed sorted, and where MLflow
// fails with an internal error there is a message that names the fault.
package filter
