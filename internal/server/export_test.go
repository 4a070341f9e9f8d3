package server

// FiringID is the id of the backup of a firing.
var FiringID = firingID

// Seal is seal.
var Seal = seal
