"""Statistics of a list of numbers, with more packages than it needs."""

import numpy
import pandas
import scipy.stats
from flask import Flask, jsonify, render_template, request

app = Flask(__name__)


@app.get("/up")
def up():
    return "up\n"


@app.get("/")
def index():
    return render_template("index.html")


@app.get("/describe")
def describe():
    numbers = numpy.array([float(word) for word in request.args.get("numbers", "1,2,3").split(",")])
    table = pandas.Series(numbers).describe().to_dict()
    return jsonify(table | {"skew": float(scipy.stats.skew(numbers))})
