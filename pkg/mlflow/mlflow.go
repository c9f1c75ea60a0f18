// Package mlflow is the one place that knows MLflow's REST API as a wire
// format: the types of its requests and answers, how leniently its server reads
// JSON and query strings, its limits, and its words for what is wrong.
//
// A handler reads a request with [Decode], which also checks what is required
// and of which type; checks the values with the Validate functions; and answers
// with [WriteJSON] or [WriteError]. The package knows nothing about runs that
// exist: it holds only the messages for when they do not.
//
// MLflow's server ignores a value of the wrong type where it has no check for
// it, and goes on without it. Decode refuses such a request instead and names
// the value, so that nothing is half written; everything that MLflow refuses is
// refused in its own words.
package mlflow
