// Package query answers everything of MLflow's tracking API that reads runs,
// experiments and metrics, from the ClickHouse tables that the projector keeps.
//
// A client that got its write acknowledged sees it in its next read: before a
// read the service asks the log for the last sequence of the subjects it is
// about to read, and waits until the projector's watermark has reached it. When
// that takes too long it refuses the read as TEMPORARILY_UNAVAILABLE; only a client
// that asks for old data gets what the tables have. Experiments, and runs of few
// events, are read from the log itself.
//
// # Searches
//
// A filter is compiled to one statement: attributes are conditions on the table
// runs, and each metric, parameter or tag is a semi-join with the prefix
// (experiment, key) of its table. A page token holds the sort keys of the last
// run of its page, and a digest of the search, so that runs that are written
// between two pages neither repeat a run nor hide one.
//
// # Histories
//
// A history goes by time, its table by step. A page is found through an index on
// time and a bound on where it ends (see pageEnd), so that its time does not
// depend on its place in the history. A sample of a history numbers the points as
// the table is read. Neither needs memory that grows with the history.
//
// # Differences from MLflow
//
// Infinities are returned as they were logged; MLflow's SQL store clamps them.
// NaN is unequal to every number, as in MLflow from 3.17 on. In the order of a
// history, and of its samples, NaN comes after the other values of its timestamp
// and step. get-history-bulk refuses a negative max_results.
// attributes.run_name is the run's name even when its tag was deleted. There is
// a next page token only when there is a next page. A run that was deleted by
// itself stays deleted when its experiment is restored, unless the log says
// otherwise.
//
// The points of logged models keep NaN too, which orders before what is missing.
// A data set that a search for logged models names without a digest stands for
// all of its digests.
package query
