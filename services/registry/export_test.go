package registry

// Gather and RestLimit let a test see which records are applied together.
var Gather = gather

const RestLimit = restLimit
